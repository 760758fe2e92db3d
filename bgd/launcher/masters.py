"""Supervisors that come to the socket: that of the highest generation is master, others are sent away."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from bgd.errors import ProtocolError
from bgd.launcher.attempts import Attempts
from bgd.launcher.journal import Journal
from bgd.launcher.line import Line, framed
from bgd.launcher.visitor import Visitor
from bgd.wire.launching import (
    LAUNCHING_PROTOCOL,
    MAX_GENERATION,
    Acknowledge,
    Continue,
    Declined,
    Goodbye,
    Greeting,
    Launch,
    Ready,
    Renew,
    Signal,
    Stop,
    Suspend,
    ToLauncher,
    Watch,
    Welcome,
)
from bgd.wire.limits import Abilities

log = logging.getLogger(__name__)


class Masters:
    """Hears nobody until `open`; `changed` is called when a master comes, goes, or says goodbye.

    `prepare` is called with the store of the first greeting, which is then heard after the next `open`.
    """

    def __init__(
        self,
        attempts: Attempts,
        line: Line,
        journal: Journal,
        changed: Callable[[], None],
        abilities: Abilities,
        prepare: Callable[[str], None] | None = None,
    ) -> None:
        self._attempts = attempts
        self._line = line
        self._journal = journal
        self._changed = changed
        self._abilities = abilities
        self._prepare = prepare
        self._master: Visitor | None = None
        self._is_open = False
        self._is_closed = False
        self._waiting: list[tuple[Visitor, ToLauncher]] = []
        self._finished: list[Visitor] = []  # have said all, and not yet been heard
        self.has_goodbye = False

    @property
    def has_master(self) -> bool:
        """Whether there is one, or somebody waits to be heard who may become it."""
        return self._master is not None or bool(self._waiting)

    def open(self) -> None:
        """Hear those who came, in their order, and all who come."""
        self._is_open = True
        waiting, self._waiting = self._waiting, []
        for visitor, message in waiting:
            if visitor.transport.is_closing():
                continue
            try:
                self.hear(visitor, message)
            except ProtocolError as error:
                visitor.drop(error)
        if self._is_open:  # else the first greeting has begun a look, after which this is called again
            finished, self._finished = self._finished, []
            for visitor in finished:
                visitor.transport.close()
        self._changed()

    def close(self) -> None:
        """Hear nobody any more: whoever still speaks has to find the next launcher."""
        self._is_closed = True
        if self._master is not None:
            self._line.speak()
            self._master.transport.close()

    def finish(self, visitor: Visitor) -> bool:
        """Take that a visitor will say no more; return whether to keep him until he has been heard."""
        if not self._is_open:
            self._finished.append(visitor)
        return not self._is_open

    def hear(self, visitor: Visitor, message: ToLauncher) -> None:
        """Do what a visitor says.

        Raises:
            ProtocolError: it has not greeted.
        """
        if self._is_closed:
            return
        if self._is_open and self._prepare and isinstance(message, Greeting):
            prepare, self._prepare = self._prepare, None
            self._is_open = False
            prepare(message.store)
        if not self._is_open:
            self._waiting.append((visitor, message))
            self._changed()
        elif isinstance(message, Greeting):
            self._greet(visitor, message)
        elif visitor is not self._master:
            raise ProtocolError("the first message must be a greeting")
        else:
            self._obey(message)

    def lose(self, visitor: Visitor) -> None:
        if visitor is not self._master:
            return
        self._master = None
        self._line.disconnect()
        self._journal.sync()  # nobody is there to store these ends
        self._changed()

    def listen(self, visitor: Visitor, *, is_slow: bool) -> None:
        """Note how well a visitor takes in what it is told."""
        if visitor is self._master:
            self._line.is_slow = is_slow
            self._attempts.tell_growth()

    def _greet(self, visitor: Visitor, greeting: Greeting) -> None:
        """Make the visitor master, unless a younger supervisor of its store has been (R1)."""
        problem = self._problem_with(greeting)
        if problem:
            log.warning("sent a supervisor away: %s", problem)
            highest = self._journal.generation(greeting.store)
            position = self._journal.position(greeting.store)
            visitor.transport.write(framed(Declined(problem, highest, position)))
            visitor.transport.close()
            return
        if visitor is not self._master:
            self._line.connect(visitor.transport)
            self._master = visitor
        self.has_goodbye = False
        self._remember(greeting)
        self._attempts.unwatch_all()
        instance = self._journal.instance
        position = self._journal.position(greeting.store)
        self._line.tell(
            Welcome(LAUNCHING_PROTOCOL, instance.id, os.getpid(), instance.covers, self._abilities, position)
        )
        for known in self._attempts.snapshot():
            self._line.tell(known)
        self._line.tell(Ready())
        self._changed()

    def _problem_with(self, greeting: Greeting) -> str | None:
        if greeting.protocol > LAUNCHING_PROTOCOL:
            return (
                f"it needs launching protocol {greeting.protocol}, this launcher speaks {LAUNCHING_PROTOCOL}"
            )
        highest = self._journal.generation(greeting.store)
        if greeting.generation > MAX_GENERATION:
            return f"its generation is {greeting.generation}, and {MAX_GENERATION} is the highest"
        if greeting.generation < highest:
            return f"its generation is {greeting.generation}, and one of generation {highest} has taken over"
        return None

    def _remember(self, greeting: Greeting) -> None:
        self._journal.pass_position(greeting.store, greeting.position)
        try:
            self._journal.obey(greeting.store, greeting.generation)
        except OSError as error:  # it holds for this launcher's life all the same
            log.warning("the journal cannot take a supervisor's generation: %s", error.strerror)

    def _obey(
        self, message: Launch | Stop | Signal | Suspend | Continue | Acknowledge | Watch | Renew | Goodbye
    ) -> None:
        match message:
            case Launch():
                self._journal.pass_position(message.key.store, message.position)
                self._attempts.launch(message)
            case Stop():
                self._attempts.stop(message.key, message.grace)
            case Signal():
                self._attempts.signal(message.key, message.signum, whole_tree=message.whole_tree)
            case Suspend():
                self._attempts.suspend(message.key)
            case Continue():
                self._attempts.go_on(message.key)
            case Acknowledge():
                self._journal.pass_position(message.key.store, message.position)
                self._attempts.acknowledge(message.key)
            case Watch():
                self._attempts.watch(message.key, on=message.on)
            case Renew():
                self._attempts.renew_workers()
            case Goodbye():
                self.has_goodbye = True
                self._changed()
