# Made from bgd/client/asynchronous/steering.py by `make client`: change that.
"""Steering: the daemon itself, its slots and queues, what it keeps, and its end."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing

from bgd.client.blocking.channel import Channel
from bgd.client.blocking.ending import shut_down
from bgd.client.session import UNNUMBERED, expected
from bgd.client.specs import checked, states_of
from bgd.core.job import State
from bgd.errors import DaemonUnreachable
from bgd.wire import replies, steering
from bgd.wire.replies import BackupPart, Checkup, Info, Pruned, Queues, Reloaded, Stats
from bgd.wire.steering import ShutdownMode
from bgd.wire.views import Finding

WINDOW = 3600.0  # seconds that figures are about, unless told otherwise


class Steering:
    """The part of a client that is about no job in particular."""

    _channel: Channel

    # --- slots and queues: each returns how they are now; what is set is kept over restarts -----------------

    def queues(self) -> Queues:
        return self._channel.ask(steering.GetQueues(UNNUMBERED), Queues, repeatable=True)

    def set_slots(self, slots: int | None) -> Queues:
        """Give the daemon so many slots, None: as many as configured."""
        return self._channel.ask(checked(steering.SetSlots(UNNUMBERED, slots)), Queues, repeatable=True)

    def set_queue(self, name: str, slots: int | None) -> Queues:
        """Give a queue so many slots, None: no limit but the daemon's."""
        return self._channel.ask(checked(steering.SetQueue(UNNUMBERED, name, slots)), Queues, repeatable=True)

    def remove_queue(self, name: str) -> Queues:
        """Forget what was set of a queue: it is as configured again."""
        return self._channel.ask(checked(steering.RemoveQueue(UNNUMBERED, name)), Queues, repeatable=True)

    def pause(self, queue: str | None = None) -> Queues:
        """Start no job of a queue, None: of any, until it is resumed."""
        return self._channel.ask(checked(steering.Pause(UNNUMBERED, queue)), Queues, repeatable=True)

    def resume(self, queue: str | None = None) -> Queues:
        """Undo `pause`; None: that of all queues together, not those of single queues."""
        return self._channel.ask(checked(steering.Resume(UNNUMBERED, queue)), Queues, repeatable=True)

    # --- the daemon itself --------------------------------------------------------------------------------

    def info(self) -> Info:
        return self._channel.ask(steering.GetInfo(UNNUMBERED), Info, repeatable=True)

    def stats(self, window: float = WINDOW) -> Stats:
        """Return figures of the last `window` seconds, and of all that waits and runs."""
        return self._channel.ask(checked(steering.GetStats(UNNUMBERED, window)), Stats, repeatable=True)

    def login_link(self) -> str:
        """Return a link that logs a browser of this user in to the daemon's pages, once and within a minute.

        Raises:
            Refused: the daemon serves no pages.
        """
        login = self._channel.ask(steering.GetLogin(UNNUMBERED), replies.Login, repeatable=True)
        return login.url

    def reload(self) -> Reloaded:
        """Let the daemon read its configuration again.

        Raises:
            ConfigError: it cannot be used; the daemon goes on with the old one.
        """
        return self._channel.ask(steering.Reload(UNNUMBERED), Reloaded, repeatable=True)

    def shutdown(self, mode: ShutdownMode | str | None = None, *, timeout: float | None = None) -> None:
        """End the daemon, and wait until it is gone.

        Args:
            mode: what becomes of running jobs (see ShutdownMode); None: as configured.
            timeout: seconds to wait, None: as long as it takes.

        Raises:
            TimeoutError: it is still there; it goes on ending.
        """
        shut_down(self._channel, None if mode is None else ShutdownMode(mode), timeout)

    # --- what it keeps --------------------------------------------------------------------------------

    def prune(
        self,
        *,
        states: Iterable[State | str] | None = None,
        older_than: float | None = None,
        keep: int | None = None,
        logs_total: int | None = None,
        dry_run: bool = False,
    ) -> Pruned:
        """Delete finished jobs and their logs, the longest finished first; return how many they were.

        Args:
            states: only jobs in these final states.
            older_than: those that finished more than so many seconds ago.
            keep: all but so many of each state, the latest.
            logs_total: so many that all logs together are no more than so many bytes.
            dry_run: only say how many they would be.

        With neither `older_than`, `keep` nor `logs_total` those go that the configuration does not keep.
        """
        request = checked(
            steering.Prune(
                id=UNNUMBERED,
                states=None if states is None else states_of(states),
                older_than=older_than,
                keep=keep,
                logs_total=logs_total,
                dry_run=dry_run,
            )
        )
        pruned = Pruned(UNNUMBERED, 0, 0)
        with closing(self._channel.follow(lambda: request)) as parts:
            for part in parts:
                pruned = expected(part, Pruned)
        return pruned

    def backup(self) -> Generator[bytes, None, None]:
        """Yield a checked copy of the daemon's database, piece by piece: a file for `bgd --recover`.

        Raises:
            Refused: the daemon cannot write one; Full: it has no room for it.
            DaemonUnreachable: it broke off; what came is no copy.
        """
        size, came = 1, 0
        request = steering.GetBackup(UNNUMBERED)
        with closing(self._channel.follow(lambda: None if came else request, alone=True)) as parts:
            for part in parts:
                piece = expected(part, BackupPart)
                size, came = piece.size, came + len(piece.data)
                yield piece.data
        if came != size:
            raise DaemonUnreachable(f"the daemon went away after {came} bytes of a backup: ask for it again")

    def checkup(self) -> list[Finding]:
        """Return what the daemon finds of its installation, and what to do about it."""
        reply = self._channel.ask(steering.GetCheckup(UNNUMBERED), Checkup, repeatable=True)
        return reply.findings
