#!/usr/bin/env python3
"""Makes sets of reference tensors for the tests: `make_golden.py NAME... --out FOLDER --seed N`.

Each set is a folder with config.json, weights and one safetensors file a case, as tests/golden/README.md
says. Weights are random, and no parameter is left at 0 or 1, so that a forgotten bias or affine weight
shows; tensors whose names end in _f64 are the same computation in 64 bits. Seed 0 has the sizes of the
sets in tests/golden; other seeds have other sizes too, which the same tests then read:

    scripts/make_golden.py --all --out /tmp/golden --seed 7
    KINORA_GOLDEN=/tmp/golden cargo test --release -p kinora-models

Needs torch, transformers, safetensors and numpy; wan_train_f64 also diffusers. A set is a function with the decorator `golden`.
"""

import argparse
import json
import math
import random
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode

SETS = {}


def golden(make):
    """Registers a set under the name of the function that makes it."""
    SETS[make.__name__] = make
    return make


class Set:
    """The folder of a set while it is made."""

    def __init__(self, out, name, seed):
        self.folder = Path(out) / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.seed = seed
        self.sizes = random.Random(f"{name} {seed}")
        torch.manual_seed(seed)
        self.config = {
            "item": name,
            "seed": seed,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "cases": {},
        }

    def size(self, usual, *others):
        """A size: the usual one with seed 0, any with other seeds."""
        return usual if self.seed == 0 else self.sizes.choice([usual, *others])

    def save(self, name, tensors, error=None):
        tensors = {key: value.detach().clone().contiguous() for key, value in tensors.items()}
        save_file(tensors, self.folder / f"{name}.safetensors")
        shapes = {k: [str(v.dtype).removeprefix("torch."), list(v.shape)] for k, v in tensors.items()}
        self.config["cases"][name] = {"tensors": shapes}
        if error is not None:
            self.config["cases"][name]["err_f32_vs_f64"] = error

    def finish(self, **more):
        self.config |= more
        entries = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in self.config.items()]
        (self.folder / "config.json").write_text("{\n" + ",\n".join(entries) + "\n}\n")
        total = sum(file.stat().st_size for file in self.folder.iterdir())
        print(f"{self.folder}: {total / 1000:.0f} kB")


def randomise(model, scales):
    """Draws every parameter again; those of attention are scaled, by parts of their names, so that it is
    far from uniform, but not so far that rounding is all that is left."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                middle = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                parameter.copy_(middle + 0.2 * torch.randn_like(parameter))
            else:
                fan = parameter[0].numel()
                scale = [factor for part, factor in scales.items() if part in name]
                parameter.copy_(math.prod(scale) * fan**-0.5 * torch.randn_like(parameter))


def error(got, want):
    """How far f32 is from f64."""
    far = got.double() - want
    rms = lambda x: x.square().mean().sqrt().item()
    return {"max_abs": far.abs().max().item(), "rel_rms": rms(far) / rms(want), "ref_rms": rms(want)}


class Wide(TorchFunctionMode):
    """64 bits also where a model asks for 32, in norms and softmaxes."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        wide = lambda x: torch.float64 if x is torch.float32 else x
        func = torch.Tensor.double if func is torch.Tensor.float else func
        kwargs = {key: wide(value) for key, value in (kwargs or {}).items()}
        return func(*map(wide, args), **kwargs)


def both(model, run):
    """What `run` makes of the model, in f32, and under other names in f64."""
    with torch.no_grad():
        single = run(model.float())
        model.double()
        with Wide():
            double = {f"{key}_f64": value for key, value in run(model).items()}
        model.float()
    return single | double


def prompts(vocabulary, shape, lengths, end, pad, first=4):
    """Random tokens with an end mark, then padding; and their mask."""
    ids = torch.randint(first, vocabulary - 4, shape)
    mask = torch.zeros(shape, dtype=torch.int64)
    for row, length in enumerate(lengths):
        ids[row, length - 1] = end
        ids[row, length:] = pad
        mask[row, :length] = 1
    return ids, mask


@golden
def clip_vision(out, seed):
    """CLIP's image encoder, in Hugging Face's layout and in Wan's, and Wan's scaling of images."""
    s = Set(out, "clip_vision", seed)
    heads = s.size(4, 2, 3)
    patch = s.size(7, 4, 6)
    config = {
        "hidden_size": heads * s.size(8, 12),
        "intermediate_size": s.size(72, 50, 90),
        "projection_dim": s.size(24, 10),
        "num_hidden_layers": s.size(3, 2, 4),
        "num_attention_heads": heads,
        "image_size": patch * s.size(4, 3, 5),
        "patch_size": patch,
        "hidden_act": s.size("gelu", "quick_gelu"),
        "layer_norm_eps": 1e-5,
    }
    model = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**config)).eval()
    randomise(model, {"q_proj": 2.0, "k_proj": 2.0})
    weights = {k: v for k, v in model.state_dict().items() if not k.endswith("position_ids")}
    s.save("weights.hf", weights)
    theirs = wan_vision_names(weights, config)
    s.save("weights.wan_original", theirs)

    side = config["image_size"]
    pixels = torch.randn(2, 3, side, side)

    def run(model):
        dtype = model.dtype
        out = model(pixels.to(dtype), output_hidden_states=True)
        pooled = model.vision_model.post_layernorm(out.last_hidden_state[:, 0])
        return {
            "last_hidden_state": out.last_hidden_state,
            "penultimate": out.hidden_states[-2],
            "pooled": pooled,
            "image_embeds": out.image_embeds,
        }

    tensors = both(model, run)
    far = error(tensors["penultimate"], tensors["penultimate_f64"])
    # Wan's own names must mean the same computation.
    wan = wan_vision({k: v.double() for k, v in theirs.items()}, pixels.double(), config)
    assert torch.allclose(wan, tensors["penultimate_f64"], rtol=1e-9, atol=1e-9)
    s.save("images", {"pixel_values": pixels} | tensors, far)

    image = torch.rand(2, 3, s.size(20, 9, 40), s.size(34, 11, 50)) * 2 - 1
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], dtype=torch.float64)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711], dtype=torch.float64)
    scaled = F.interpolate(image.double(), size=(side, side), mode="bicubic", align_corners=False)
    scaled = scaled * 0.5 + 0.5
    normal = (scaled - mean[:, None, None]) / std[:, None, None]
    s.save("preprocess", {"image": image, "pixel_values_f64": normal})
    s.finish(
        model="CLIPVisionModelWithProjection",
        config=config,
        note="penultimate is what Wan reads; preprocess is Wan's: bicubic without smoothing, then normalised",
    )


def wan_vision_names(weights, config):
    """Wan's names (wan/modules/clip.py) for Hugging Face's weights."""
    get = lambda name: weights[f"vision_model.{name}"]
    named = {
        "visual.patch_embedding.weight": get("embeddings.patch_embedding.weight"),
        "visual.cls_embedding": get("embeddings.class_embedding")[None, None],
        "visual.pos_embedding": get("embeddings.position_embedding.weight")[None],
        "visual.head": weights["visual_projection.weight"].T,
    }
    for kind in ("weight", "bias"):
        named[f"visual.pre_norm.{kind}"] = get(f"pre_layrnorm.{kind}")
        named[f"visual.post_norm.{kind}"] = get(f"post_layernorm.{kind}")
        for layer in range(config["num_hidden_layers"]):
            here, there = f"encoder.layers.{layer}", f"visual.transformer.{layer}"
            qkv = [get(f"{here}.self_attn.{part}_proj.{kind}") for part in "qkv"]
            named[f"{there}.attn.to_qkv.{kind}"] = torch.cat(qkv)
            named[f"{there}.attn.proj.{kind}"] = get(f"{here}.self_attn.out_proj.{kind}")
            named[f"{there}.mlp.0.{kind}"] = get(f"{here}.mlp.fc1.{kind}")
            named[f"{there}.mlp.2.{kind}"] = get(f"{here}.mlp.fc2.{kind}")
            for norm in ("1", "2"):
                named[f"{there}.norm{norm}.{kind}"] = get(f"{here}.layer_norm{norm}.{kind}")
    return named


def wan_vision(w, pixels, config):
    """The input of the last layer, from weights under Wan's names."""
    heads, eps = config["num_attention_heads"], config["layer_norm_eps"]
    gelu = F.gelu if config["hidden_act"] == "gelu" else lambda x: x * torch.sigmoid(1.702 * x)
    pair = lambda name: (w[f"visual.{name}.weight"], w[f"visual.{name}.bias"])
    norm = lambda x, name: F.layer_norm(x, x.shape[-1:], *pair(name), eps)
    x = F.conv2d(pixels, w["visual.patch_embedding.weight"], stride=config["patch_size"])
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([w["visual.cls_embedding"].expand(len(x), 1, -1), x], 1) + w["visual.pos_embedding"]
    x = norm(x, "pre_norm")
    for layer in range(config["num_hidden_layers"] - 1):
        at = f"transformer.{layer}"
        qkv = F.linear(norm(x, f"{at}.norm1"), *pair(f"{at}.attn.to_qkv"))
        q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + F.linear(y, *pair(f"{at}.attn.proj"))
        y = gelu(F.linear(norm(x, f"{at}.norm2"), *pair(f"{at}.mlp.0")))
        x = x + F.linear(y, *pair(f"{at}.mlp.2"))
    return x


@golden
def umt5(out, seed):
    """The encoder that Wan reads, in Hugging Face's layout and in Wan's."""
    s = Set(out, "umt5", seed)
    config = {
        "vocab_size": s.size(300, 97),
        "d_model": s.size(64, 40, 56),
        "d_kv": s.size(16, 10, 6),
        "d_ff": s.size(160, 70),
        "num_layers": s.size(2, 3),
        "num_heads": s.size(4, 2, 6),
        "relative_attention_num_buckets": s.size(32, 16),
        "relative_attention_max_distance": s.size(128, 50),
        "feed_forward_proj": s.size("gated-gelu", "gated-silu", "relu"),
        "dropout_rate": 0.0,
        "layer_norm_epsilon": 1e-6,
    }
    model = transformers.UMT5EncoderModel(transformers.UMT5Config(**config)).eval()
    randomise(model, t5_scales(config))
    drop = "encoder.embed_tokens.weight"
    weights = {k: v for k, v in model.state_dict().items() if k != drop}
    s.save("weights.hf", weights)
    if config["feed_forward_proj"] == "gated-gelu":
        s.save("weights.wan_original", {wan_t5_name(k): v for k, v in weights.items()})
    t5_cases(s, model, config, {"len24_b3": (24, (24, 9, 1)), "len200_b2": (200, (200, 77))})
    s.finish(model="UMT5EncoderModel", config=config, note="each layer has its own relative positions")


@golden
def byt5(out, seed):
    """T5 with one table of relative positions for all layers."""
    s = Set(out, "byt5", seed)
    config = {
        "vocab_size": 384,
        "d_model": s.size(56, 30),
        "d_kv": s.size(8, 12),
        "d_ff": s.size(144, 50),
        "num_layers": s.size(3, 2),
        "num_heads": s.size(6, 4),
        "relative_attention_num_buckets": s.size(32, 16),
        "relative_attention_max_distance": s.size(128, 40),
        "feed_forward_proj": s.size("gated-gelu", "relu"),
        "dropout_rate": 0.0,
        "layer_norm_epsilon": 1e-6,
    }
    model = transformers.T5EncoderModel(transformers.T5Config(**config)).eval()
    randomise(model, t5_scales(config))
    drop = "encoder.embed_tokens.weight"
    s.save("weights.hf", {k: v for k, v in model.state_dict().items() if k != drop})
    t5_cases(s, model, config, {"texts": (65, (24, 1, 65, 58))})
    s.finish(model="T5EncoderModel (ByT5)", config=config, note="the first layer's relative positions are all layers'")


def t5_scales(config):
    """T5 does not divide scores by the root of the heads' width, so that its weights have to."""
    root = config["d_kv"] ** -0.25
    return {"SelfAttention.q.": root, "SelfAttention.k.": root}


def t5_cases(s, model, config, cases):
    for name, (length, lengths) in cases.items():
        ids, mask = prompts(config["vocab_size"], (len(lengths), length), lengths, end=1, pad=0)

        def run(model):
            return {"last_hidden_state": model(input_ids=ids, attention_mask=mask).last_hidden_state}

        tensors = both(model, run)
        far = error(tensors["last_hidden_state"], tensors["last_hidden_state_f64"])
        zeroed = tensors["last_hidden_state"] * mask[:, :, None]
        more = {"input_ids": ids, "attention_mask": mask, "last_hidden_state_zeroed": zeroed}
        s.save(name, more | tensors, far)


def wan_t5_name(name):
    """Wan's name (wan/modules/t5.py) for one of Hugging Face's."""
    table = [
        ("shared.", "token_embedding."),
        ("encoder.block.", "blocks."),
        ("encoder.final_layer_norm.", "norm."),
        ("layer.0.SelfAttention.relative_attention_bias.", "pos_embedding.embedding."),
        ("layer.0.SelfAttention.", "attn."),
        ("layer.0.layer_norm.", "norm1."),
        ("layer.1.layer_norm.", "norm2."),
        ("layer.1.DenseReluDense.wi_0.", "ffn.gate.0."),
        ("layer.1.DenseReluDense.wi_1.", "ffn.fc1."),
        ("layer.1.DenseReluDense.wo.", "ffn.fc2."),
    ]
    for theirs, wans in table:
        name = name.replace(theirs, wans)
    return name


def clip_text(out, seed, name, activation):
    s = Set(out, name, seed)
    heads = s.size(4, 2, 3)
    vocabulary, context = s.size(512, 100), s.size(77, 20)
    config = {
        "vocab_size": vocabulary,
        "hidden_size": heads * s.size(16, 10),
        "intermediate_size": s.size(192, 50),
        "projection_dim": s.size(48, 21),
        "num_hidden_layers": s.size(3, 2, 4),
        "num_attention_heads": heads,
        "max_position_embeddings": context,
        "hidden_act": activation,
        "layer_norm_eps": 1e-5,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }
    model = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**config)).eval()
    randomise(model, {"q_proj": 2.0, "k_proj": 2.0})
    weights = {k: v for k, v in model.state_dict().items() if not k.endswith("position_ids")}
    s.save("weights.hf", weights)
    lengths = (context, context // 3, 2)
    end = vocabulary - 1
    ids, mask = prompts(vocabulary, (3, context), lengths, end=end, pad=end, first=0)
    ids[:, 0] = vocabulary - 2
    for case, inputs in {"no_mask": {}, "mask": {"attention_mask": mask}}.items():

        def run(model):
            out = model(input_ids=ids, output_hidden_states=True, **inputs)
            return {
                "last_hidden_state": out.last_hidden_state,
                "penultimate": out.hidden_states[-2],
                "text_embeds": out.text_embeds,
            }

        tensors = both(model, run)
        far = error(tensors["last_hidden_state"], tensors["last_hidden_state_f64"])
        s.save(case, {"input_ids": ids} | inputs | tensors, far)
    s.finish(model="CLIPTextModelWithProjection", config=config, note="causal; pooled at the first end mark")


@golden
def clip_text_gelu(out, seed):
    """CLIP's text encoder with OpenCLIP's activation."""
    clip_text(out, seed, "clip_text_gelu", "gelu")


@golden
def clip_text_quick_gelu(out, seed):
    """CLIP's text encoder with OpenAI's activation."""
    clip_text(out, seed, "clip_text_quick_gelu", "quick_gelu")


@golden
def sentencepiece(out, seed):
    """Small models with what published ones have: bytes for unknown characters, pieces of their own."""
    import sentencepiece as spm

    s = Set(out, "sentencepiece", seed)
    corpus = Path(__file__).read_text().split("\n")
    s.sizes.shuffle(corpus)
    kinds = {
        "bytes": {"byte_fallback": True, "normalization_rule_name": "identity"},
        "symbols": {
            "user_defined_symbols": ["<video>", "two  blanks", "def"],
            "normalization_rule_name": "identity",
            "byte_fallback": True,
            "add_dummy_prefix": False,
        },
        "blanks": {
            "remove_extra_whitespaces": False,
            "normalization_rule_name": "identity",
            "user_defined_symbols": ["<video>"],
        },
        "suffix": {"treat_whitespace_as_suffix": True, "normalization_rule_name": "identity"},
    }
    # Characters of one to four bytes, blanks of several kinds, and lines that the models know.
    letters = "abcdefgh  \t.,<>_'\u00e4\u0101\u2581\u3000\u65e5\u672c\ufb01\uff21\U0001f98a"
    draw = s.sizes.choice
    texts = ["", " ", "  a", "a  ", "<video>a <video> def  definite two  blanks", *corpus[:20]]
    texts += ["".join(draw(letters) for _ in range(draw([3, 10, 40]))) for _ in range(60)]
    models = {}
    for name, options in kinds.items():
        file = s.folder / name
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus),
            model_prefix=str(file),
            vocab_size=s.size(420, 500) if options.get("byte_fallback") else s.size(150, 200),
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
            hard_vocab_limit=False,
            **options,
        )
        file.with_suffix(".vocab").unlink()
        model = spm.SentencePieceProcessor(model_file=str(file.with_suffix(".model")))
        models[name] = [model.encode(text) for text in texts]
    s.finish(texts=texts, ids=models, note="name.model and its numbers of the texts, without an end mark")


@golden
def cleaning(out, seed):
    """Prompts as Wan cleans them, but for mojibake, which is left as it is."""
    import html
    import re

    import ftfy

    s = Set(out, "cleaning", seed)
    parts = [
        *"abcXYZ 019 \t\n\r.,;&#<>'\"_-",
        *"&amp; &amp &lt; &LT; &notin; &notit; &copy &copy; &EACUTE; &eacute; &nbsp; &semi;".split(),
        *"&#65; &#x41; &#65 &#0; &#x80; &#150; &#xd800; &#1114112; &; &#; &#x; &unknown; &SZLIG;".split(),
        *"\u00e4\u0301\u00a0\u2028\u2029\u0085\u0093\u0081\u2018\u2019\u201c\u201d\u02bc\u0149",
        *"\ufb01\ufb06\u01c5\u0133\uff21\uff61\uffe6\uff9e\uff76\u3000\u65e5\ufeff\u206a\ufffc\u001c\u007f\u0007",
        "\x1b[36;44m", "\x1b[m", "\x1b[", "e\u0301", "A\u030a", "\u1100\u1161", "\U0001f98a", "\u0130", "\u03a3",
    ]
    draw = s.sizes.choice
    texts = ["".join(draw(parts) for _ in range(draw([1, 2, 4, 12, 40]))) for _ in range(400)]
    options = ftfy.TextFixerConfig(fix_encoding=False)

    def clean(text):
        text = html.unescape(html.unescape(ftfy.fix_text(text, options))).strip()
        return re.sub(r"\s+", " ", text).strip()

    cleaned = [clean(text) for text in texts]
    s.finish(texts=texts, cleaned=cleaned, lower=[text.lower() for text in cleaned])


@golden
def wan_train_f64(out, seed):
    """Steps of AdamW with clipping and an average of weights, all of it in 64 bits. In 32, what diffusers
    makes of times moves the moments of queries and keys by 5e-5, which hides smaller mistakes."""
    from diffusers import WanTransformer3DModel

    s = Set(out, "wan_train_f64", seed)
    heads = 2 * s.size(1, 2)
    config = {
        "patch_size": [1, 2, 2],
        "num_attention_heads": heads,
        "attention_head_dim": s.size(12, 16),
        "in_channels": s.size(4, 6),
        "text_dim": s.size(20, 14),
        "freq_dim": s.size(16, 32),
        "ffn_dim": s.size(40, 56),
        "num_layers": s.size(2, 1),
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": 1e-6,
        "rope_max_seq_len": 64,
    }
    config["out_channels"] = config["in_channels"]
    hyper = {"lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "clip": 0.2}
    hyper |= {"ema_decay": 0.9, "steps": 5}
    with Wide():
        model = WanTransformer3DModel(**config)
    randomise(model, {"norm_q": 1.5, "norm_k": 1.5})
    s.save("weights.diffusers", model.state_dict())
    model.double()
    model.condition_embedder.timesteps_proj = Sinusoids(config["freq_dim"])
    adam = torch.optim.AdamW(
        model.parameters(),
        lr=hyper["lr"],
        betas=hyper["betas"],
        eps=hyper["eps"],
        weight_decay=hyper["weight_decay"],
    )
    named = dict(model.named_parameters())
    average = {name: value.detach().clone() for name, value in named.items()}
    shape = [2, config["in_channels"], s.size(2, 4), s.size(4, 8), s.size(6, 4)]
    batches, losses, norms = {}, [], []
    for step in range(hyper["steps"]):
        data, noise = torch.randn(shape).double(), torch.randn(shape).double()
        sigma = torch.rand(shape[0]).double()
        share = sigma[:, None, None, None, None]
        batch = {
            "x_t": (1 - share) * data + share * noise,
            "timestep": 1000 * sigma,
            "target": noise - data,
            "encoder_hidden_states": torch.randn(shape[0], s.size(5, 9), config["text_dim"]).double(),
        }
        adam.zero_grad()
        with Wide():
            velocity = model(
                batch["x_t"], batch["timestep"], batch["encoder_hidden_states"], return_dict=False
            )[0]
            assert velocity.dtype == torch.float64
            loss = (velocity - batch["target"]).square().mean()
            loss.backward()
        # clip_grad_norm_ adds 1e-6 to the norm, which is far more than 64 bits round.
        norms.append(torch.nn.utils.get_total_norm([value.grad for value in named.values()]))
        for value in named.values():
            value.grad.mul_(min(1.0, hyper["clip"] / norms[-1].item()))
        losses.append(loss.detach())
        adam.step()
        keep = hyper["ema_decay"]
        for name, value in named.items():
            average[name].mul_(keep).add_(value.detach(), alpha=1 - keep)
        batches |= {f"step{step}.{name}": value for name, value in batch.items()}
    s.save("batches", batches | {"losses": torch.stack(losses), "grad_norms": torch.stack(norms)})
    s.save("params_after", named)
    s.save("ema_after", average)
    moments = ["exp_avg", "exp_avg_sq"]
    s.save("adam_after", {f"{m}.{n}": adam.state[value][m] for n, value in named.items() for m in moments})
    s.finish(
        model="WanTransformer3DModel",
        config=config,
        hyper=hyper,
        computed="float64",
        note="per step: loss, backward, clipping, AdamW that decays every parameter, average of weights",
    )


class Sinusoids(torch.nn.Module):
    """Cosines, then sines, of times [B] in steps: [B, width]. Those of diffusers are in 32 bits."""

    def __init__(self, width):
        super().__init__()
        self.rates = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width // 2))

    def forward(self, times):
        phases = times.double()[:, None] * self.rates
        return torch.cat([phases.cos(), phases.sin()], -1)


@golden
def temporal(out, seed):
    """Movie Gen's temporal autoencoder: moments, frames, the loss and its gradients. The parameters have our
    names; convolutions have PyTorch's shapes, and those along time are what is added to the frame itself."""
    s = Set(out, "temporal", seed)
    config = {
        "base": s.size(3, 4, 6),
        "multipliers": s.size([1, 2], [1, 2, 3], [2, 1]),
        "blocks": s.size(1, 2),
        "channels": s.size(3, 2, 5),
        "halves_frames": s.size(2, 1),
        "halves_sides": s.size(1, 2),
        "patch": s.size(2, 1),
        "tile": s.size(8, 12),
        "overlap": 4,
    }
    config["mean"] = [0.3 * x for x in torch.randn(config["channels"]).tolist()]
    config["std"] = [0.5 + x for x in torch.rand(config["channels"]).tolist()]
    model = Temporal(config)
    # Attention far from uniform, and biases that keep pixels away from zero, where norms only round.
    randomise(model, {"query": 3.0, "key": 3.0, "time.weight": 0.3})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(2.0 if name.endswith("bias") else 1.0)
    side = config["patch"] << config["halves_sides"]
    model.side = side
    step = 1 << config["halves_frames"]
    worst = {}
    # An image, whole latent frames, frames beyond them, and more than two tiles.
    for frames, (h, w), batch in [(1, (2, 3), 2), (8, (3, 2), 1), (7, (1, 2), 2), (21, (2, 2), 1)]:
        video = torch.rand(batch, 3, frames, h * side, w * side) * 2 - 1
        latent = torch.randn(batch, config["channels"], -(-frames // step), h, w)

        def run(model):
            dtype = next(model.parameters()).dtype
            x, z = video.to(dtype), latent.to(dtype)
            whole = {"moments": model.moments(x), "frames": model.reconstruct(z)}
            if frames <= config["tile"]:
                return whole
            return whole | {"tiled": model.tiled(x), "blended": model.blended(z)}

        tensors = both(model, run)
        worst = {key: error(tensors[key], tensors[f"{key}_f64"]) for key in ("moments", "frames")}
        tensors = {key: value for key, value in tensors.items() if key.endswith("_f64")}
        s.save(f"f{frames}_{h * side}x{w * side}", {"video": video, "latent": latent} | tensors, worst)
    video = torch.rand(2, 3, 7, 3 * side, 2 * side) * 2 - 1
    eps = torch.randn(2, config["channels"], -(-7 // step), 3, 2)
    # A radius below the usual, so that a small latent has outliers too.
    losses = {"divergence": 0.01, "outliers": 0.3, "radius": 0.7}
    for distance in ("l1", "l2"):
        passes = []
        for dtype in (torch.float32, torch.float64):
            model.to(dtype)
            model.zero_grad()
            x = video.to(dtype).detach().requires_grad_()
            parts = model.losses(x, eps.to(dtype), distance, losses)
            parts["total"].backward()
            grads = {f"grad.{name}": p.grad.clone() for name, p in model.named_parameters()}
            passes.append({"grad_video": x.grad} | grads)
        model.float()
        # The keys' bias has no gradient but rounding.
        single, double = passes
        worst = max(error(single[k], double[k])["rel_rms"] for k in double if not k.endswith("key.bias"))
        kept = {k: v.float() for k, v in double.items() if distance == "l1" or k == "grad_video"}
        parts = {key: value.reshape(1) for key, value in parts.items()}
        s.save(f"loss_{distance}", {"video": video, "eps": eps} | parts | kept, {"worst_rel_rms": worst})
    s.save("weights", dict(model.named_parameters()))
    s.finish(config=config, losses=losses)


class Replicated(torch.nn.Module):
    """A convolution along time of three frames, with copies of the first and the last around them, added to
    the frame in the middle."""

    def __init__(self, channels, stride=1):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(channels, channels, 3))
        self.bias = torch.nn.Parameter(torch.empty(channels))
        self.stride = stride

    def forward(self, x):
        b, c, t, h, w = x.shape
        lines = x.permute(0, 3, 4, 1, 2).reshape(b * h * w, c, t)
        added = F.conv1d(F.pad(lines, (1, 1), mode="replicate"), self.weight, self.bias, stride=self.stride)
        lines = lines[:, :, :: self.stride] + added
        return lines.reshape(b, h, w, c, -1).permute(0, 3, 4, 1, 2)


class PerFrame(torch.nn.Conv2d):
    """A convolution of each frame."""

    def forward(self, x):
        b, c, t, h, w = x.shape
        frames = x.transpose(1, 2).reshape(b * t, c, h, w)
        if self.stride[0] == 2:
            frames = F.pad(frames, (0, 1, 0, 1))
        frames = super().forward(frames)
        return frames.reshape(b, t, *frames.shape[1:]).transpose(1, 2)


class Inflated(torch.nn.Module):
    def __init__(self, a, b, kernel=3, halves=(False, False)):
        super().__init__()
        stride = 2 if halves[1] else 1
        self.space = PerFrame(a, b, kernel, stride=stride, padding=0 if stride == 2 else kernel // 2)
        self.time = Replicated(b, 2 if halves[0] else 1)

    def forward(self, x):
        return self.time(self.space(x))


class Doubled(Inflated):
    """The nearest frames and pixels, then convolutions."""

    def __init__(self, a, doubles):
        super().__init__(a, a)
        self.scale = tuple(2 if doubled else 1 for doubled in (doubles[0], doubles[1], doubles[1]))

    def forward(self, x):
        return super().forward(F.interpolate(x, scale_factor=self.scale, mode="nearest"))


class PixelNorm(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(channels))

    def forward(self, x):
        scale = x.shape[1] ** 0.5
        return F.normalize(x, dim=1, eps=1e-12) * scale * self.weight.reshape(1, -1, 1, 1, 1)


class OneHead(torch.nn.Module):
    """Attention with one head over the pixels of a frame, or over a pixel's frames."""

    def __init__(self, channels, along_time):
        super().__init__()
        for name in ("query", "key", "value", "out"):
            setattr(self, name, torch.nn.Linear(channels, channels))
        self.along_time = along_time

    def forward(self, x):
        b, c, t, h, w = x.shape
        x = x.permute(0, 3, 4, 2, 1) if self.along_time else x.permute(0, 2, 3, 4, 1)
        tokens = x.reshape(b * h * w, t, c) if self.along_time else x.reshape(b * t, h * w, c)
        scores = self.query(tokens) @ self.key(tokens).transpose(1, 2) / c**0.5
        tokens = self.out(scores.softmax(-1) @ self.value(tokens)).reshape(x.shape)
        return tokens.permute(0, 4, 3, 1, 2) if self.along_time else tokens.permute(0, 4, 1, 2, 3)


class TemporalBlock(torch.nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.norm1, self.conv1 = PixelNorm(a), Inflated(a, b)
        self.norm2, self.conv2 = PixelNorm(b), Inflated(b, b)
        self.shortcut = Inflated(a, b, 1) if a != b else None

    def forward(self, x):
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (x if self.shortcut is None else self.shortcut(x))


class TemporalMiddle(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first, self.second = TemporalBlock(channels, channels), TemporalBlock(channels, channels)
        self.norm_space, self.space = PixelNorm(channels), OneHead(channels, False)
        self.norm_time, self.time = PixelNorm(channels), OneHead(channels, True)

    def forward(self, x):
        x = self.first(x)
        x = x + self.space(self.norm_space(x))
        x = x + self.time(self.norm_time(x))
        return self.second(x)


class TemporalLevel(torch.nn.Module):
    def __init__(self, up, blocks, down):
        super().__init__()
        self.up, self.blocks, self.down = up, torch.nn.ModuleList(blocks), down

    def forward(self, x):
        for layer in [self.up, *self.blocks, self.down]:
            x = x if layer is None else layer(x)
        return x


class TemporalHalf(torch.nn.Module):
    """The encoder or the decoder."""

    def __init__(self, from_, to, levels, middle, middle_first):
        super().__init__()
        first = middle if middle_first else levels[0][0]
        last = levels[-1][1] if middle_first else middle
        self.conv_in, self.middle = Inflated(from_, first), TemporalMiddle(middle)
        self.levels = torch.nn.ModuleList(level for _, _, level in levels)
        self.norm_out, self.conv_out = PixelNorm(last), Inflated(last, to)
        self.middle_first = middle_first

    def forward(self, x):
        x = self.conv_in(x)
        for layer in [self.middle, *self.levels] if self.middle_first else [*self.levels, self.middle]:
            x = layer(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Temporal(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        widths = [config["base"] * m for m in config["multipliers"]]
        halves = [(i < config["halves_frames"], i < config["halves_sides"]) for i in range(len(widths))]
        pixels, channels = 3 * config["patch"] ** 2, config["channels"]
        down, up = [], []
        for i, width in enumerate(widths):
            before = widths[max(i - 1, 0)]
            blocks = [TemporalBlock(before if j == 0 else width, width) for j in range(config["blocks"])]
            step = Inflated(width, width, halves=halves[i]) if any(halves[i]) else None
            down.append((before, width, TemporalLevel(None, blocks, step)))
        for i, width in reversed(list(enumerate(widths))):
            before = widths[min(i + 1, len(widths) - 1)]
            blocks = [TemporalBlock(before if j == 0 else width, width) for j in range(config["blocks"] + 1)]
            step = Doubled(before, halves[i]) if any(halves[i]) else None
            up.append((before, width, TemporalLevel(step, blocks, None)))
        self.encoder = TemporalHalf(pixels, 2 * channels, down, widths[-1], False)
        self.decoder = TemporalHalf(channels, pixels, up, widths[-1], True)

    def moments(self, video):
        p = self.config["patch"]
        return self.encoder(video.unflatten(4, (-1, p)).unflatten(3, (-1, p)).permute(0, 1, 4, 6, 2, 3, 5).flatten(1, 3))

    def reconstruct(self, latent):
        p = self.config["patch"]
        x = self.decoder(latent).unflatten(1, (3, p, p))
        return x.permute(0, 1, 4, 5, 2, 6, 3).flatten(5, 6).flatten(3, 4)

    def tiled(self, video):
        return torch.cat([self.moments(tile) for tile in video.split(self.config["tile"], 2)], 2)

    def blended(self, latent):
        """Overlapping tiles, each weighted by a ramp at both ends."""
        step = 1 << self.config["halves_frames"]
        size, overlap = self.config["tile"] // step, self.config["overlap"] // step
        t, shared = latent.shape[2], overlap * step
        starts = [0]
        while starts[-1] + size < t:
            starts.append(starts[-1] + size - overlap)
        ramp = torch.arange(1, shared + 1, dtype=latent.dtype) / (shared + 1)
        out = 0
        for start in starts:
            tile = self.reconstruct(latent[:, :, start : start + size])
            n = tile.shape[2]
            weight = torch.ones(n, dtype=latent.dtype)
            if start > 0:
                weight[:shared] = ramp
            if start + size < t:
                weight[n - shared :] = ramp.flip(0)
            placed = tile * weight.reshape(1, 1, -1, 1, 1)
            out = out + F.pad(placed, (0, 0, 0, 0, start * step, (t - start) * step - n))
        return out

    def losses(self, video, eps, distance, weights):
        mean, log = self.moments(video).chunk(2, 1)
        log = log.clamp(-30, 20)
        divergence = 0.5 * (mean**2 + log.exp() - log - 1).mean()
        latent = mean + eps * (0.5 * log).exp()
        flat = latent.flatten(3)
        far = torch.linalg.vector_norm(flat - flat.mean(3, keepdim=True), dim=1)
        spread = torch.linalg.vector_norm(flat.std(3, unbiased=False), dim=1)
        outliers = (far - weights["radius"] * spread[:, :, None]).clamp(min=0).mean()
        apart = self.reconstruct(latent)[:, :, : video.shape[2]] - video
        reconstruction = (apart.abs() if distance == "l1" else apart**2).mean()
        total = reconstruction + weights["divergence"] * divergence + weights["outliers"] * outliers
        return {"total": total, "reconstruction": reconstruction, "divergence": divergence, "outliers": outliers}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*SETS, []], metavar="NAME", help=", ".join(SETS))
    parser.add_argument("--all", action="store_true", help="every set")
    parser.add_argument("--out", required=True, help="the folder of sets")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    names = SETS if args.all else args.names
    if not names:
        parser.error(f"name sets, or give --all: {', '.join(SETS)}")
    for name in names:
        SETS[name](args.out, args.seed)


if __name__ == "__main__":
    main()
