"""What a user may give where a corpus is asked for."""

from __future__ import annotations

from pathlib import Path

from ser_personal.corpus.base import Corpus
from ser_personal.corpus.csv_corpus import CSVCorpus
from ser_personal.corpus.msp_podcast import AUDIO_FOLDERS, MSPPodcast
from ser_personal.errors import UserError

TABLE = "corpus.csv"


def open_corpus(corpus: Corpus | str) -> Corpus:
    """Turn what the user gave into a corpus, without reading it.

    Args:
        corpus: a corpus, a folder in MSP-Podcast's layout, a table that `CSVCorpus` reads, or a folder with such a
            table named corpus.csv.

    Raises:
        UserError: it is none of these.
    """
    if isinstance(corpus, Corpus):
        return corpus
    if corpus.startswith("{"):
        what = "no corpus class has this name and these arguments"
        remedy = "Give a class and what it takes, such as CSVCorpus --corpus.path corpus.csv --corpus.scale [1,5]"
        raise UserError(what, where=corpus, remedy=remedy)
    path = Path(corpus)
    if path.suffix.lower() == ".csv":
        return CSVCorpus(corpus)
    if (path / TABLE).is_file():
        return CSVCorpus(str(path / TABLE))
    if any((path / name).is_dir() for name in ("Labels", *AUDIO_FOLDERS)):
        return MSPPodcast(corpus)
    what = "holds no corpus" if path.is_dir() else "no such corpus"
    remedy = (
        f"Give a folder with Labels and Audios (MSP-Podcast's layout), one with {TABLE}, or the path of a .csv table"
    )
    raise UserError(what, where=path, remedy=remedy)
