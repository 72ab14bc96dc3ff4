"""Turns as the files that people have of them."""

import re

import numpy as np
import pandas as pd
from command_line import ser

from ser_personal.audio import decode
from ser_personal.recognition.turns import Turn

VALUES = ["arousal_raw", "valence_raw", "arousal_calibrated", "valence_calibrated"]


def spoken_by_turns(files, names, gap=0):
    """A file a turn after a gap in samples; -> sound (samples, speakers), and the turns."""
    parts = [decode(path) for path in files]
    ends = np.cumsum([len(part) + gap for part in parts])
    sound, turns = np.zeros((ends[-1], len(names)), dtype=np.float32), []
    for number, (part, end) in enumerate(zip(parts, ends, strict=True)):
        who = number % len(names)
        sound[end - len(part) : end, who] = part
        turns.append(Turn((end - len(part)) / 16_000, end / 16_000, names[who]))
    return sound, turns


def rttm(turns, name="meeting"):
    lines = (f"SPEAKER {name} 1 {s:.6f} {e - s:.6f} <NA> <NA> {who} <NA> <NA>" for s, e, who, *_ in turns)
    return "".join(f"{line}\n" for line in [";; made by hand", *lines])


def table(turns):
    lines = (f"meeting.wav,0:{s // 60:.0f}:{s % 60:.6f},{e:.6f},{who}\n" for s, e, who, *_ in turns)
    return "".join(["path,Start,end,speaker\n", *lines])


def textgrid(turns, *, short):
    """Praat's text format of a tier a speaker, pauses as intervals without a label."""
    end = max(turn.end for turn in turns)
    tiers = []
    for who in sorted({turn.speaker_id for turn in turns}):
        bounds, intervals = 0.0, []
        for start, stop, *_ in (turn for turn in turns if turn.speaker_id == who):
            intervals += [(bounds, start, ""), (start, stop, "x")] if start > bounds else [(start, stop, "x")]
            bounds = stop
        tiers.append((who, intervals + ([(bounds, end, "")] if bounds < end else [])))
    lines = ["xmin = 0", f"xmax = {end}", "tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (who, intervals) in enumerate(tiers, 1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{who}"']
        lines += ["        xmin = 0", f"        xmax = {end}", f"        intervals: size = {len(intervals)}"]
        for place, (a, b, label) in enumerate(intervals, 1):
            lines += [f"        intervals [{place}]:", f"            xmin = {a}", f"            xmax = {b}"]
            lines += [f'            text = "{label}"']
    if short:
        # the values alone
        lines = [re.sub(r".*(= |\? )", "", line) for line in lines if not line.endswith("]:")]
    return "\n".join(['File type = "ooTextFile"', 'Object class = "TextGrid"', "", *lines, ""])


def annotated(bundle_folder, folder, *flags, code=0):
    out = folder / f"{len(list(folder.iterdir()))}.csv"
    assert ser("annotate", *flags, "--model", bundle_folder, "--out", out, "--device", "cpu") == code
    return pd.read_csv(out, dtype={"speaker": str})
