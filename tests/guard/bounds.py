"""The bounds of what fixed workloads cost, beside what they cost when each bound was last set.

`python -m tests.guard` prints what they cost now. Lower a bound with each improvement.

Where all runs gave one figure, it is the bound. The others depend on which events happen to share a
transaction, a turn of the event loop or a wake-up. Their bounds are a little above the highest of some twenty
runs, on an idle machine (most commits) and on one with seven busy processes per core. They leave no room for
one more commit, page or system call per submit or per job. How many functions are called is not bounded: that
would make functions longer than their ideas.
"""

from __future__ import annotations

COUNTED_WITH = (3, 11)  # Python: others have other modules

# The figure seen, and the bound
BOUNDS = {
    # modules besides those of a Python that does nothing; each folder, such as bgd.text, is one
    "modules, import bgd": (2, 2),
    "modules, bgd.job": (36, 36),
    # two more than before: why a queued job waits, and what [schedules.NAME] may say; one more for
    # what `bgctl submit PROGRAM` shares with it
    "modules, submit of a Client": (120, 120),
    # three more than before: other verbs, too, are answered without the client, whose answers have numbers
    "modules, bgctl submit": (14, 14),
    "modules, bgctl run": (14, 14),
    "modules, bgctl list": (18, 18),
    "modules, bgctl logs": (14, 14),
    "modules, bgctl wait": (14, 14),
    # with the parser and the client
    "modules, bgctl submit --": (135, 135),
    "modules, bgctl run --": (138, 138),
    "modules, bgctl list --": (138, 138),
    "modules, bgctl logs --": (148, 148),
    "modules, bgctl wait --": (137, 137),
    # four more than before: jobs on Slurm; an upgrade may replace them, so they are loaded at the start (R7);
    # one for the reasons why a job waits there, which the daemon explains; four for pilots,
    # one that looks into the shared folder, and one that holds the sockets of the pages
    # one that writes frames, which the daemon shares; three for the keyboards of jobs; one for limits on what
    # an attempt may use, which were in a larger file; one for what Slurm's programs print
    "modules, launcher": (205, 205),
    # one for the table of verbs, two for pages: the sockets that the launcher holds, and seals; and two for
    # folders that may not answer; six for facts and filters, which pages share with bgctl, for lines as HTML,
    # and for the table of jobs, the change stream and the clock of schedules, which were in larger files;
    # one that writes frames, which the launcher shares; one that counts what starts and ends;
    # one that shares a connection among pages, one for new jobs, and three that draw charts and graphs;
    # two about what follows the end of a job, two for steps, four about batches and limits by key,
    # one for breakers, one for pages of batches, two for inboxes, and one for the cells that pages and
    # `bgctl list` share; one for limits on what an attempt may use, and one for slots;
    # Python's own names of months; one for retries, and one for what Slurm's programs print; one for permits;
    # three to read the launcher's journal before a launcher answers
    "modules, daemon": (357, 357),
    "modules, spawned class job": (38, 38),  # faulthandler and stopping.py are two of them
    # what the daemon allocates; at the peak, the request and the rows are there as well
    # up to 14,000 of it are weak references to cursors, which sqlite3 drops after every 200th
    "bytes of memory, 2000 queued jobs": (16_800, 30_000),
    # 82,000 more than before: five options for Slurm, eight bytes each in a spec; then 107,000 more: what
    # follows a job and what it follows, until when it is retried, limits by key, references to results; then
    # 16,000 more: the batch that a job is of; 48,000 more: until when a job has its key, and for how long
    "peak of memory, batch of 2000": (2_415_000, 2_439_000),
    # nothing polls
    "system calls, idle for 2 s": (0, 0),
    "system calls, idle for 2 s with 100 open pages": (0, 0),
    # durable submits, one by one
    "commits, 200 submits": (200, 203),
    "SQL statements, 200 submits": (1_405, 1_418),
    "syncs to disk, 200 submits": (203, 207),
    "bytes written by the daemon, 200 submits": (2_493_375, 2_551_000),
    "bytes written by the launcher, 200 submits": (0, 0),
    "system calls of the daemon, 200 submits": (4_994, 5_120),
    "waits for events of the daemon, 200 submits": (400, 420),
    "futex calls of the daemon, 200 submits": (896, 2_200),  # 1,779 were seen on a busy machine
    "system calls of the launcher for an attempt, 200 submits": (0, 0),
    "waits for events of the launcher, 200 submits": (0, 0),
    # no-op commands, one by one, from the request to the end
    "commits, 100 jobs": (200, 204),
    # each of two commits writes two rows of counts, which are one page
    "SQL statements, 100 jobs": (1_904, 1_930),  # four commits more have 18
    "syncs to disk, 100 jobs": (206, 213),
    # a page is 4,120 bytes; on a busy machine up to 11 more were written
    "bytes written by the daemon, 100 jobs": (4_410_390, 4_540_000),
    # a pid above 65,535 takes two bytes more in MessagePack, in eight places for each job; each start says in
    # seven bytes that it has no executor, and names its slot, as each end does: after a crash a job that was
    # launched by permit is found in it
    "bytes written by the launcher, 100 jobs": (56_795, 57_600),
    "system calls of the daemon, 100 jobs": (7_691, 8_075),
    "waits for events of the daemon, 100 jobs": (896, 1_100),
    "futex calls of the daemon, 100 jobs": (1_375, 2_600),
    "system calls of the launcher for an attempt, 100 jobs": (59, 60),
    "waits for events of the launcher, 100 jobs": (771, 860),
    # no-op commands, submitted at once, in two slots; on a busy machine several ends share a commit
    "commits, batch of 2000": (1_919, 2_005),
    # two statements and a page more in each commit, for the counts of the minute
    "SQL statements, batch of 2000": (22_163, 27_400),
    "bytes written by the daemon, batch of 2000": (58_600_000, 61_200_000),
    "bytes written by the launcher, batch of 2000": (1_119_000, 1_124_000),
    "wake-ups of the daemon, batch of 2000": (14_444, 20_000),
    "wake-ups of the launcher, batch of 2000": (4_865, 7_000),
    # class jobs that do nothing, one by one, in a reused worker
    "system calls of the launcher, 100 reused class jobs": (2_401, 2_440),
    "system calls of the worker, 100 reused class jobs": (1_901, 1_905),
}
