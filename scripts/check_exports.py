#!/usr/bin/env python3
"""Loads what `kinora convert` writes into diffusers, and compares outputs: `check_exports.py`.

Build first: cargo build --release -p kinora && cargo build --release -p kinora-models --example velocity
Needs: pip install torch diffusers peft accelerate safetensors numpy

Trains a small Wan and adapters beside it for a few steps, in a folder that is removed, and exports them:
the whole model, the adapters, and the model with the adapters added, each under the names of diffusers
and of the original. diffusers reads all of them, the original ones through the functions that it has for
other people's files. What its WanTransformer3DModel makes of some inputs is compared with what Kinora
makes of them: the root mean square of the difference, relative. Ends with 1 if any is above 1e-5;
diffusers' sinusoids of times, in 32 bits, are up to half of that off.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
NEAR = 1e-5
# wan-tiny, as diffusers writes it.
CONFIG = {
    "patch_size": [1, 2, 2],
    "num_attention_heads": 4,
    "attention_head_dim": 24,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 64,
    "freq_dim": 256,
    "ffn_dim": 256,
    "num_layers": 4,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
}
LORA = """
[lora]
rank = 4
alpha = 10.0
base = "f32"
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    built = ROOT / "target/release"
    parser.add_argument("--kinora", type=Path, default=built / "kinora")
    parser.add_argument("--velocity", type=Path, default=built / "examples/velocity")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        far = check(Path(folder), args)
    for name, value in far.items():
        print(f"{value:.1e}  {name}")
    sys.exit(any(value > NEAR for name, value in far.items() if not name.startswith("(")))


def check(folder, args):
    kinora = lambda *words: subprocess.run([args.kinora.resolve(), *words], cwd=folder, check=True)
    train(folder, kinora)
    for names in ["diffusers", "original"]:
        for what, run, more in [
            ("base", "base", []),
            ("lora", "tuned", []),
            ("merged", "tuned", ["--merge"]),
        ]:
            out = f"{what}-{names}.safetensors"
            kinora("convert", f"runs/{run}", "-q", "--dtype", "f32", "--names", names, "-o", out, *more)

    torch.manual_seed(0)
    inputs = {
        "latent": torch.randn(2, 16, 3, 4, 6),
        "time": torch.tensor([750.0, 20.0]),
        "text": torch.randn(2, 32, CONFIG["text_dim"]),
    }
    save_file(inputs, folder / "inputs.safetensors")

    def ours(weights):
        words = ["wan-tiny", folder / weights, folder / "inputs.safetensors", folder / "out"]
        subprocess.run([args.velocity.resolve(), *words], check=True, stdout=subprocess.DEVNULL)
        return torch.from_numpy(np.fromfile(folder / "out", "<f4")).reshape(inputs["latent"].shape)

    def theirs(model):
        with torch.no_grad():
            return model(inputs["latent"], inputs["time"], inputs["text"], return_dict=False)[0]

    far = lambda got, want: ((got - want).norm() / want.norm()).item()
    plain, merged = ours("base-diffusers.safetensors"), ours("merged-diffusers.safetensors")
    results = {"(what the adapters change)": far(merged, plain)}
    for what, want in [("base", plain), ("merged", merged)]:
        for names in ["diffusers", "original"]:
            file = folder / f"{what}-{names}.safetensors"
            results[f"{what}, names of {names}"] = far(theirs(read(file, names)), want)
            results[f"{what}, names of {names}, Kinora reads both alike"] = far(ours(file.name), want)
        file = folder / f"{what}-original.safetensors"
        results[f"{what}, from_single_file"] = far(theirs(single_file(file)), want)
    for names in ["diffusers", "original"]:
        model = read(folder / "base-diffusers.safetensors", "diffusers")
        # It converts names that begin with diffusion_model., as ComfyUI's do.
        adapters = WanPipeline.lora_state_dict(str(folder / f"lora-{names}.safetensors"))
        factors = len(load_file(folder / f"lora-{names}.safetensors"))
        assert len(adapters) == factors, f"{len(adapters)} of {factors} factors are left"
        model.load_lora_adapter(adapters, prefix="transformer", adapter_name="tuned")
        held = sum("lora_" in name for name, _ in model.named_parameters())
        assert held == factors, f"{held} of {factors} factors were taken"
        results[f"adapters, names of {names}"] = far(theirs(model), merged)
        model.disable_lora()
        results[f"adapters switched off, names of {names}"] = far(theirs(model), plain)
    return results


def train(folder, kinora):
    """A run and its fine-tuning: configs/smoke.toml with wan-tiny, on one rank, without previews."""
    smoke = (ROOT / "configs/smoke.toml").read_text()
    base = re.sub(r"\[preview\]\n.*?\n\n", "", smoke, flags=re.DOTALL)
    for found, new in [
        (r"preview_every = \d+", "preview_every = 0"),
        (r"tp = 2", "tp = 1"),
        (r'preset = "[^"]*"\nlayers = \d+\ndim = \d+\nffn = \d+', 'preset = "wan-tiny"'),
        (r"width = 32\nlayers", f"width = {CONFIG['text_dim']}\nlayers"),
        (r'out = "[^"]*"', 'out = "runs/base"'),
    ]:
        base, count = re.subn(found, new, base, count=1)
        assert count == 1, f"configs/smoke.toml has no {found}"
    tuned = base.replace("runs/base", "runs/tuned").replace("[model]\n", '[model]\nweights = "runs/base"\n')
    for name, text in [("base", base), ("tuned", tuned + LORA)]:
        (folder / f"{name}.toml").write_text(text)
        kinora("train", f"{name}.toml", "-q")


def read(file, names):
    """diffusers' model with the weights of a file, all of them."""
    weights = load_file(file)
    if names == "original":
        weights = convert_wan_transformer_to_diffusers(weights)
    model = WanTransformer3DModel(**CONFIG).eval()
    model.load_state_dict(weights)
    return model


def single_file(file):
    """The same by the way that users take."""
    config = file.parent / "config"
    WanTransformer3DModel(**CONFIG).save_config(config)
    return WanTransformer3DModel.from_single_file(str(file), config=str(config), local_files_only=True).eval()


if __name__ == "__main__":
    main()
