"""What a study shows while it runs: a line each run at work, and one for each that has ended."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from ser_personal.report.words import duration

if TYPE_CHECKING:
    from types import TracebackType

    from ser_personal.study.run_folder import RunFolder
    from ser_personal.study.schedule import Ended
    from ser_personal.study.stage import Stage


class Progress:
    """Lines of runs, and a bar over all of them.

    Args:
        runs: how many there are.
    """

    def __init__(self, runs: int) -> None:
        self._shown = RichProgress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(highlight=False, soft_wrap=True),
            transient=True,
        )
        self._all = self._shown.add_task("all runs", total=runs)
        self._lines: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._shown.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.stop()

    def begin(self, folder: RunFolder, stage: Stage) -> None:
        """Show a run's stage at work."""
        done = [each.name for each in folder.run.stages].index(stage.name)
        text = f"{escape(folder.run.title)}: {stage.name}"
        with self._lock:
            line = self._lines.get(folder.run.folder)
            if line is None:
                self._lines[folder.run.folder] = self._shown.add_task(
                    text, total=len(folder.run.stages), completed=done
                )
            else:
                self._shown.update(line, description=text, completed=done)

    def end(self, folder: RunFolder, ended: Ended) -> None:
        """Put how a run ended in the place of its line."""
        title = escape(folder.run.title)
        with self._lock:
            line = self._lines.pop(folder.run.folder, None)
            if line is not None:
                self._shown.remove_task(line)
            self._shown.advance(self._all)
        say = self._shown.console.print
        if ended.outcome == "done":
            say(f"[green]done[/]    {title} ({duration(ended.seconds)})")
        elif ended.outcome == "kept":
            say(f"[dim]kept    {title}[/]")
        elif ended.outcome == "blocked":
            say(f"[yellow]blocked[/] {title}: {escape(ended.reason)}")
        else:
            say(f"[red]failed[/]  {title}: {escape(ended.reason)}")
            say(f"        its log: {escape(str(folder.log))}")
