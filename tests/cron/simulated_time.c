/* Preloaded into Debian's cron, it gives the unmodified program a simulated clock and files of its own.
 *
 *   SIM_START, SIM_END  epoch seconds: where the clock starts, and where the program exits
 *   SIM_STEPS           "AT:BY,AT:BY": when the clock shows AT, it is set forward by BY seconds (back if negative)
 *   SIM_ROOT            the folder that holds cron's /etc, /var/spool/cron and /run
 *   SIM_COMMANDS        if it is set, commands run; cron then waits for them before it exits
 *
 * Run it as `cron -f -x sch,proc`: with these debug flags cron prints the minute that it works on and each command.
 * Without SIM_COMMANDS nothing is started: fork() prints "RUN <epoch> <minute> <hour> <day> <month> <command>" and
 * pretends that it did. No root is needed, and hours pass in a millisecond, as sleep() only moves the clock.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))

enum { MAX_STEPS = 64, MAX_PATH = 600 };

static long long clock_now = -1, clock_end;
static struct { long long at, by; } steps[MAX_STEPS];
static int step_count, next_step;
static const char *root;
static int working_on[4]; /* minute, hour, day and month as cron counts them: the last two from 0 */
static char command[2048];

static void start(void) {
    if (clock_now >= 0) return;
    clock_now = atoll(getenv("SIM_START"));
    clock_end = atoll(getenv("SIM_END"));
    root = getenv("SIM_ROOT");
    char *text = getenv("SIM_STEPS");
    while (text && *text && step_count < MAX_STEPS) {
        steps[step_count].at = strtoll(text, &text, 10);
        steps[step_count++].by = strtoll(text + 1, &text, 10);
        if (*text == ',') text++;
    }
}

/* --- the clock --- */

time_t time(time_t *result) {
    start();
    if (result) *result = clock_now;
    return clock_now;
}

unsigned sleep(unsigned seconds) {
    start();
    for (long long left = seconds; left > 0;) {
        long long passed = left;
        if (next_step < step_count && steps[next_step].at - clock_now < left) passed = steps[next_step].at - clock_now;
        if (passed < 0) passed = 0; /* the clock was set past the time of the step */
        clock_now += passed;
        left -= passed;
        if (next_step < step_count && clock_now >= steps[next_step].at) clock_now += steps[next_step++].by;
    }
    if (clock_now < clock_end) return 0;
    while (getenv("SIM_COMMANDS") && wait(NULL) > 0) continue;
    fflush(stdout);
    _exit(0);
}

/* --- what cron does --- */

int __printf_chk(int flag, const char *format, ...) {
    va_list values;
    va_start(values, format);
    if (!strncmp(format, "[%d] tick(", 10)) {
        va_arg(values, int);
        for (int part = 0; part < 4; part++) working_on[part] = va_arg(values, int);
    } else if (!strncmp(format, "[%d] do_command(", 16)) {
        va_arg(values, int);
        snprintf(command, sizeof command, "%s", va_arg(values, char *));
    }
    va_end(values);
    return 0;
}

pid_t fork(void) {
    static pid_t last = 4000000; /* above all real ones */
    if (getenv("SIM_COMMANDS")) return REAL(fork)();
    printf("RUN %lld %d %d %d %d %s\n", clock_now, working_on[0], working_on[1], working_on[2] + 1, working_on[3] + 1,
           command);
    return ++last;
}

pid_t waitpid(pid_t pid, int *status, int options) {
    if (getenv("SIM_COMMANDS")) return REAL(waitpid)(pid, status, options);
    errno = ECHILD;
    return -1;
}

void __syslog_chk(int priority, int flag, const char *format, ...) {
    va_list values;
    va_start(values, format);
    printf("LOG ");
    vprintf(format, values);
    printf("\n");
    va_end(values);
}

void openlog(const char *name, int options, int facility) {}
void closelog(void) {}

/* --- its files, which all seem to belong to root --- */

static const char *inside(const char *path) {
    static char paths[4][MAX_PATH]; /* no caller keeps more than two */
    static unsigned used;
    static const char *const moved[] = {"/etc/cron", "/var/spool/cron", "/run/", "/var/run/"};
    start();
    for (unsigned each = 0; path && each < sizeof moved / sizeof *moved; each++)
        if (!strncmp(path, moved[each], strlen(moved[each]))) {
            char *free_one = paths[used++ % 4];
            snprintf(free_one, MAX_PATH, "%s%s", root, path);
            return free_one;
        }
    return path;
}

static int owned_by_root(int result, struct stat *status) {
    if (result) return result;
    status->st_uid = status->st_gid = 0;
    if (S_ISREG(status->st_mode)) status->st_mode = S_IFREG | 0600;
    return 0;
}

int open(const char *path, int flags, ...) {
    va_list values;
    va_start(values, flags);
    int mode = va_arg(values, int);
    va_end(values);
    return ((int (*)(const char *, int, int)) dlsym(RTLD_NEXT, "open"))(inside(path), flags, mode);
}
FILE *fopen(const char *path, const char *mode) { return REAL(fopen)(inside(path), mode); }
DIR *opendir(const char *path) { return REAL(opendir)(inside(path)); }
int access(const char *path, int mode) { return REAL(access)(inside(path), mode); }
int creat(const char *path, mode_t mode) { return REAL(creat)(inside(path), mode | 0600); }
int chdir(const char *path) { return REAL(chdir)(inside(path)); }
int stat(const char *path, struct stat *status) { return owned_by_root(REAL(stat)(inside(path), status), status); }
int lstat(const char *path, struct stat *status) { return owned_by_root(REAL(lstat)(inside(path), status), status); }
int fstat(int file, struct stat *status) { return owned_by_root(REAL(fstat)(file, status), status); }

int chown(const char *path, uid_t user, gid_t group) { return 0; }
int flock(int file, int operation) { return 0; }
uid_t getuid(void) { return 0; }
uid_t geteuid(void) { return 0; }
int setuid(uid_t user) { return 0; }
int seteuid(uid_t user) { return 0; }
int setgid(gid_t group) { return 0; }
int setegid(gid_t group) { return 0; }
