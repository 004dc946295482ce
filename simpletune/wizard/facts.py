"""What the wizard finds out about the world, each thing once: the machine, sets of pictures, the hub."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simpletune.data.survey import Place, Survey, TableLook
    from simpletune.machine.devices import Device
    from simpletune.machine.hardware import Machine
    from simpletune.machine.hub_access import Access


class Facts:
    """Answers are remembered; `look`, `survey_place`, `ask_hub` and `has_login` are the ways to the world, which tests
    replace."""

    def __init__(
        self,
        folder: Path,
        look: Callable[[Path], Machine] | None = None,
        survey_place: Callable[[Place], Survey] | None = None,
        ask_hub: Callable[[str, str | None, bool], Access] | None = None,
        has_login: Callable[[], bool] | None = None,
    ) -> None:
        self._folder = folder
        self._look = look
        self._survey = survey_place
        self._ask_hub = ask_hub
        self._has_login = has_login
        self._known: dict[Any, Any] = {}
        self._lock = threading.RLock()

    def _once(self, key: Any, find: Callable[[], Any]) -> Any:
        with self._lock:
            if key not in self._known:
                self._known[key] = find()
            return self._known[key]

    @property
    def machine(self) -> Machine:
        def find() -> Machine:
            from simpletune.machine.hardware import look

            return (self._look or look)(self._folder)

        found: Machine = self._once("machine", find)
        return found

    @property
    def devices(self) -> tuple[Device, ...]:
        """Best first; the processor is the last."""

        def find() -> tuple[Device, ...]:
            from simpletune.machine.devices import devices

            return devices(self.machine)

        found: tuple[Device, ...] = self._once("devices", find)
        return found

    @property
    def hub_login(self) -> bool:
        """Whether somebody is logged in to the hub on this machine."""

        def find() -> bool:
            from simpletune.machine.hub_access import has_login

            return (self._has_login or has_login)()

        found: bool = self._once("login", find)
        return found

    def device(self, kind: str) -> Device | None:
        """This machine's best usable device of a kind."""
        return next((device for device in self.devices if device.kind == kind and device.usable), None)

    def survey(self, place: Place) -> Survey:
        """The place as it was when it was first looked at, in at most two seconds or so."""

        def find() -> Survey:
            from simpletune.data.survey import survey

            return (self._survey or survey)(place)

        with self._lock:
            found: Survey = self._once(("survey", place), find)
            if place.type is None:  # it will be asked for by the type that was found
                self._known.setdefault(("survey", replace(place, type=found.type)), found)
        return found

    def table(self, path: Path) -> TableLook | str:
        """A caption table's beginning, or what is wrong with it."""

        def find() -> TableLook | str:
            from simpletune.data.sources import SourceError
            from simpletune.data.survey.tables import look_at_table

            if not os.path.lexists(path):
                return f"there is no file {path}: check its spelling"
            try:
                return look_at_table(path)
            except SourceError as error:
                return f"{error.message}; {error.hint}"

        found: TableLook | str = self._once(("table", path), find)
        return found

    def look_again(self) -> None:
        """Forget what couldn't be used: somebody may have put that right meanwhile."""
        with self._lock:
            for key, found in list(self._known.items()):
                wrong = key[0] == "survey" and found.problem is not None
                if wrong or (key[0] == "table" and isinstance(found, str)):
                    del self._known[key]

    def is_surveyed(self, place: Place) -> bool:
        return ("survey", place) in self._known

    def access(self, repo_id: str, endpoint: str | None, gated: bool) -> Access:
        """Whether the hub gives a model, asked once, within seconds."""

        def find() -> Access:
            from simpletune.machine.hub_access import check_access

            return (self._ask_hub or check_access)(repo_id, endpoint, gated)

        found: Access = self._once(("hub", repo_id, endpoint), find)
        return found
