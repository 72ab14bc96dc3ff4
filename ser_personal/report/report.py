"""`ser report`: what a test run says, for people who read and for people who are spoken of."""

from __future__ import annotations

from pathlib import Path

from ser_personal.errors import UserError
from ser_personal.files import write_whole
from ser_personal.pseudonyms import asked_key

KEY = "anonymise.key"


def report(
    run: str,
    by: str | None = None,
    table: str | None = None,
    before: str | None = None,
    resamples: int = 2000,
    seed: int = 0,
    key: str | None = None,
    *,
    anonymise: bool = False,
) -> None:
    """Write report.html, audit.json and TensorBoard images of a test run, into its folder.

    Args:
        run: the folder that `ser test` with PLDC wrote predictions.csv and metrics.json to.
        by: a column to audit by besides gender, amount of speech and label: of `table`, or of predictions.csv.
        table: a table of the corpus that has the column, such as corpus.csv, with a row an utterance or a speaker.
        before: test run of a model without personalisation, whose speaker vectors are probed beside this run's.
        resamples: draws of the speakers behind each interval.
        seed: of these draws.
        key: file of the secret behind the pseudonyms, made where it is missing: anonymise.key in the run's folder if
            null. Keep it back: whoever has it can tell who is who. Give the one of another report or of `ser annotate`
            and a speaker has the same name in both.
        anonymise: show every speaker and utterance under a pseudonym. Hand on report.html, audit.json and TensorBoard's
            images (events.*.report) and no more: other files of the folder have the real names, and the projector's
            have voice vectors. The names of the folder, of the checkpoint and of a column's groups stay as they are.

    Raises:
        UserError: a folder isn't a test run, the column isn't there, too few resamples are asked for, or the file holds
            no key.
    """
    from rich.console import Console

    from ser_personal.report.audit import audit, small_groups, write_audit
    from ser_personal.report.bootstrap import Bootstrap
    from ser_personal.report.figures.all_figures import draw_all
    from ser_personal.report.html import render
    from ser_personal.report.run_folder import check_is_run, read_run
    from ser_personal.report.tensorboard import write_tensorboard
    from ser_personal.report.training_curves import fits_behind

    if table is not None and by is None:
        raise UserError("says nothing without a column", where="--table", remedy="Name one: --by COLUMN")
    if resamples < 100:
        raise UserError(f"{resamples} is too few for an interval", where="--resamples", remedy="Give at least 100")
    check_is_run(Path(run))
    secret = asked_key(key, Path(run) / KEY, anonymise=anonymise)
    read = read_run(run, secret)
    fits = fits_behind(read)
    earlier = None if before is None else read_run(before, secret)
    found = audit(read, Bootstrap(resamples, seed), by=by, table=table, before=earlier)
    figures = draw_all(read, fits, found)
    page = read.folder / "report.html"
    write_whole(page, render(read, fits, found, figures).encode())
    write_audit(read.folder / "audit.json", found, read)
    write_tensorboard(read, figures)
    console = Console(soft_wrap=True, highlight=False)
    if few := small_groups(found):
        console.print(f"No interval under {found.bootstrap.fewest} speakers: {'; '.join(few)}", style="dim")
    console.print(f"written: {page}, audit.json and TensorBoard images beside it")
    if secret is not None:
        console.print(
            f"keep back {key or read.folder / KEY}, the key, and the folder's other files, which have real names"
        )
