"""What the placeholders of a command stand for, where a test does not care."""

from __future__ import annotations

from dynsvc.algorithms import Placeholders

PLACES = Placeholders(
    input="/input/tile.png",
    input_dir="/input",
    output_dir="/output",
    case_id="C",
    subject_id="S",
    analysis_id="A",
    description="D",
    x=1,
    y=2,
    width=3,
    height=4,
    mpp=0.25,
    order_id="14",
)
