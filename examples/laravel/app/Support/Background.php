<?php

namespace App\Support;

use RuntimeException;

/** Submits a job to bgd without waiting for it. */
final class Background
{
    /**
     * Queue a call of a method; return the id of the job when it is on disk.
     *
     * @param  array  $params  positional arguments, or named ones by their names
     *
     * @throws RuntimeException if the job was refused; the message is that of bgctl
     */
    public static function run(string $class, string $method, array $params = [], int $priority = 0, int $delay = 0): int
    {
        $given = array_is_list($params) ? '--args' : '--kwargs';
        $command = [
            'bgctl', 'call', '--json', "--priority=$priority", "--delay={$delay}s",
            $given, json_encode($params, JSON_THROW_ON_ERROR), "php::$class@$method",
        ];
        $process = proc_open($command, [1 => ['pipe', 'w'], 2 => ['pipe', 'w']], $pipes);  // no shell reads it
        [$output, $problem] = [stream_get_contents($pipes[1]), stream_get_contents($pipes[2])];
        if (proc_close($process) !== 0) {
            throw new RuntimeException(trim($problem));
        }

        return json_decode($output, true, flags: JSON_THROW_ON_ERROR)['id'];
    }
}
