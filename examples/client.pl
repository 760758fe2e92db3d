#!/usr/bin/perl
# A client of bgd in another language, written from docs/protocol.md alone. It needs only Perl's own modules.
#
#   client.pl run PROGRAM ARGS...   queue a command, show its output, exit with its code
#   client.pl submit PROGRAM ARGS...
#   client.pl wait ID
#   client.pl logs ID               follow the output, also across restarts of bgd
use strict;
use warnings;
use Cwd qw(getcwd);
use Encode qw(decode encode);
use IO::Socket::UNIX;
use Time::HiRes qw(sleep);

my $PATIENCE = 30;    # seconds without a daemon after which a stream ends

# MessagePack's numbers by their first bytes, and their lengths
my %FORMATS = (
    0xca => "f>", 0xcb => "d>", 0xcc => "C", 0xcd => "n", 0xce => "N", 0xcf => "Q>",
    0xd0 => "c", 0xd1 => "s>", 0xd2 => "l>", 0xd3 => "q>",
);
my %LENGTHS = (C => 1, c => 1, n => 2, "s>" => 2, N => 4, "l>" => 4, "f>" => 4, "d>" => 8, "Q>" => 8, "q>" => 8);

$| = 1;
binmode STDOUT;
my ($verb, @arguments) = @ARGV;
my %verbs = (run => \&run, submit => sub { print submit(@_), "\n"; 0 }, wait => \&wait_for, logs => \&logs);
my $action = $verbs{ $verb // "" } or die "usage: client.pl run|submit|wait|logs ...\n";
exit $action->(@arguments);

# --- verbs -------------------------------------------------------------------------------------------

sub run {
    my $job = submit(@_);
    logs($job);
    return wait_for($job);
}

sub submit {
    my @argv   = map { decode("UTF-8", $_) } @_;
    my %env    = map { decode("UTF-8", $_) => decode("UTF-8", $ENV{$_}) } grep { is_for_jobs($_) } keys %ENV;
    my $spec   = { argv => \@argv, cwd => decode("UTF-8", getcwd()), umask => num(umask), env => \%env };
    my $daemon = connected();
    ask($daemon, { type => "submit", id => num(1), spec => $spec });
    return reply($daemon)->{jobs}[0];
}

sub is_for_jobs {
    return $_[0] !~ /^(NOTIFY_SOCKET|MAINPID|INVOCATION_ID|JOURNAL_STREAM|(LISTEN|WATCHDOG|BGD)_.*)$/;
}

sub wait_for {
    my $job = shift;
    my $view;
    follow(
        sub { $view ? undef : { type => "wait", id => num(1), jobs => [ num($job) ] } },
        sub { $view = $_[0]{jobs}[0] },
    );
    return 0 if $view->{state} eq "succeeded";
    return $view->{exit_code} // 128 + ($view->{signal} // 0);
}

sub logs {
    my $job     = shift;
    my $request = { type => "logs", id => num(1), job => num($job), attempt => num(0), follow => \1 };
    follow(
        sub { $request },
        sub {
            my $part = shift;
            print $part->{data};
            $request->{attempt} = num($part->{attempt});
            $request->{offset}  = num(($part->{offset} // 0) + length $part->{data});
        },
    );
    return 0;
}

# --- streams that outlive the daemon -------------------------------------------------------------------

sub follow {
    my ($rest, $take) = @_;
    my $daemon = connected();
    while (my $request = $rest->()) {
        my $is_complete = eval {
            ask($daemon, $request);
            while ((my $part = reply($daemon))->{type} ne "end") { $take->($part) }
            1;
        };
        return if $is_complete;
        die $@ unless $@ =~ /^gone/;
        $daemon = connected_again() if $rest->();
    }
    return;
}

sub connected_again {
    my ($pause, $waited) = (0.05, 0);
    while (1) {
        my $daemon = eval { connected() };
        return $daemon if $daemon;
        die $@ if $waited > $PATIENCE;
        sleep $pause;
        $waited += $pause;
        $pause = $pause < 0.5 ? 2 * $pause : 1;
    }
}

# --- messages ------------------------------------------------------------------------------------------

sub connected {
    my $state = $ENV{XDG_STATE_HOME} // "$ENV{HOME}/.local/state";
    my $path  = $ENV{BGD_SOCKET} // "$state/bgd/bgd.sock";
    my $daemon = IO::Socket::UNIX->new(Peer => $path) or die "no daemon answers at $path\n";
    local $SIG{PIPE} = "IGNORE";
    ask($daemon, { type => "hello", protocol => num(1), version => "1", program => "client.pl" });
    my $hello = reply($daemon);
    die "the daemon speaks protocol $hello->{protocol}\n" if $hello->{protocol} != 1;
    return $daemon;
}

sub ask {
    my ($daemon, $message) = @_;
    local $SIG{PIPE} = "IGNORE";
    my $frame = pack "N/a", packed($message);
    while (length $frame) {
        my $count = syswrite $daemon, $frame or die "gone\n";
        substr $frame, 0, $count, "";
    }
    return;
}

sub reply {
    my $daemon = shift;
    my $payload = received($daemon, unpack "N", received($daemon, 4));
    my $message = unpacked(\$payload);
    die "$message->{message}\n" if $message->{type} eq "failed";
    return $message;
}

sub received {
    my ($daemon, $length) = @_;
    my $data = "";
    while (length $data < $length) {
        sysread $daemon, $data, $length - length $data, length $data or die "gone\n";
    }
    return $data;
}

# --- MessagePack: only what these messages need -----------------------------------------------------------
# Text is a string of characters, bin a string of bytes; send whole numbers as num, true as \1.

sub num { my $value = shift; return bless \$value, "num" }

sub packed {
    my $value = shift;
    return "\xc0" if !defined $value;
    return $$value ? "\xc3" : "\xc2" if ref $value eq "SCALAR";
    return pack("Cn", 0xdc, scalar @$value) . join "", map { packed($_) } @$value if ref $value eq "ARRAY";
    if (ref $value eq "HASH") {
        return pack("Cn", 0xde, scalar keys %$value) . join "", map { text($_) . packed($value->{$_}) } keys %$value;
    }
    return ref $value eq "num" ? pack("Cq>", 0xd3, $$value) : text($value);
}

sub text {
    my $bytes = encode("UTF-8", $_[0]);
    return pack("CN", 0xdb, length $bytes) . $bytes;
}

sub unpacked {
    my $rest  = shift;
    my $first = number($rest, "C");
    return $first if $first < 0x80;
    return hash($rest, $first & 0x0f) if $first < 0x90;
    return list($rest, $first & 0x0f) if $first < 0xa0;
    return decode("UTF-8", bytes($rest, $first & 0x1f)) if $first < 0xc0;
    return undef if $first == 0xc0;
    return $first == 0xc3 if $first == 0xc2 || $first == 0xc3;
    return bytes($rest, number($rest, (qw(C n N))[ $first - 0xc4 ])) if $first <= 0xc6;
    return number($rest, $FORMATS{$first}) if $FORMATS{$first};
    return decode("UTF-8", bytes($rest, number($rest, (qw(C n N))[ $first - 0xd9 ]))) if $first >= 0xd9 && $first <= 0xdb;
    return list($rest, number($rest, (qw(n N))[ $first - 0xdc ])) if $first == 0xdc || $first == 0xdd;
    return hash($rest, number($rest, (qw(n N))[ $first - 0xde ])) if $first == 0xde || $first == 0xdf;
    return $first - 0x100 if $first >= 0xe0;
    die sprintf "no value of this protocol begins with %02x\n", $first;
}

sub bytes { my ($rest, $length) = @_; return substr $$rest, 0, $length, "" }
sub number { my ($rest, $format) = @_; return unpack $format, bytes($rest, $LENGTHS{$format}) }
sub list { my ($rest, $count) = @_; return [ map { unpacked($rest) } 1 .. $count ] }
sub hash { my ($rest, $count) = @_; return { map { my $key = unpacked($rest); $key => unpacked($rest) } 1 .. $count } }
