"""`ground-probe segment` of several photos and expressions."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

import ground_probe as gp
from ground_probe import cli


@pytest.fixture
def photos(tmp_path):
    paths = []
    for number, example in enumerate(gp.load_split("scenes", "test", limit=2)):
        paths.append(str(tmp_path / f"photo {number}.png"))
        example.image.save(paths[-1])
    return paths


def test_each_expression_in_each_photo_and_again(photos, tmp_path, capsys):
    lines, out = tmp_path / "list.txt", tmp_path / "masks"
    lines.write_text("the circle\n\nleft <one>\nthe circle\n")
    command = ["segment", *photos, "--expressions", str(lines), "-o", str(out), "--quiet", "--json"]
    assert cli.main(command) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["done"] == 4 and len(set(said["files"])) == 4
    page = (out / "index.html").read_text()
    assert "left &lt;one&gt;" in page
    linked = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert len(linked) == 8 and all((out / name).is_file() for name in linked)
    editor, photo = gp.load_editor("tiny"), Image.open(photos[1])
    expected = gp.segment(editor, photo, "the circle").mask
    assert np.array_equal(np.asarray(Image.open(said["files"][2])) > 0, expected)

    (out / said["files"][0].rpartition("/")[2]).unlink()
    assert cli.main(command) == 0
    assert json.loads(capsys.readouterr().out)["done"] == 1
    assert cli.main([*command, "--seed", "1"]) == 2  # another choice does not mix with these
    assert "seed" in capsys.readouterr().err


def test_what_is_no_pair_is_refused(photos, tmp_path, capsys):
    assert cli.main(["segment", *photos, "a circle"]) == 2
    assert "3 words where an image and one expression" in capsys.readouterr().err
    overlay = ["segment", *photos, "--expressions", "list.txt", "--overlay", "one.png"]
    assert cli.main(overlay) == 2
    assert "--overlay names one file" in capsys.readouterr().err
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    assert cli.main(["segment", photos[0], "--expressions", str(empty)]) == 2
    assert "no expression" in capsys.readouterr().err
    assert cli.main(["segment", "none.png", "--expressions", str(tmp_path)]) == 2
    assert "cannot read the expressions" in capsys.readouterr().err
