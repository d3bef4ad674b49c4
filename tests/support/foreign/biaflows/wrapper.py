#!/usr/bin/env python3
"""Behaves as the wrapper of a BIAFLOWS workflow does when it runs without a server."""

import argparse
import json
import shutil
import sys
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--infolder", type=Path, required=True)
parser.add_argument("--outfolder", type=Path, required=True)
parser.add_argument("--gtfolder", type=Path, required=True)
parser.add_argument("--local", action="store_true", required=True)
parser.add_argument("-nmc", "--nometriccomp", action="store_true")
parser.add_argument("--spot_diameter_range")
parser.add_argument("--smoothing", type=float)
parser.add_argument("--fill_holes", choices=["true", "false"])
arguments = parser.parse_args()

pictures = sorted(arguments.infolder.glob("*.tif"))
if not pictures or list(arguments.gtfolder.iterdir()):
    sys.exit("expected a TIFF picture and no ground truth")
for number, picture in enumerate(pictures, 1):
    print(f"progress: {100 * number // len(pictures)}%", flush=True)
    # One mask for each picture, under its name.
    shutil.copyfile(picture, arguments.outfolder / picture.name)
given = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
(arguments.outfolder / "log.json").write_text(json.dumps({"given": given}))
