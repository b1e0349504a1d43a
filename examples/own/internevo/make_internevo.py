"""Makes what InternEvo leaves behind, small: `python make_internevo.py`, in this folder.

`cache/` holds token caches as InternEvo's `tools/tokenizer.py` writes them, one folder a language; `model/` a checkpoint under
InternEvo's names, rotary positions in its order, and the `config.json` of a Llama and the tokenizer, which belong beside it. The
model is trained on the caches a little. Needs numpy, tokenizers, torch, transformers and
zstandard. The texts are in the public domain: Proverbs in the King James Version, and poems of the Tang.
"""

import json
import pathlib

import numpy
import tokenizers
import torch
import transformers
import zstandard

QUICKSTART = pathlib.Path("../../quickstart/data")
END = "</s>"
SEQ = 64

# What stands for what, from Hugging Face's names to InternEvo's.
NAMES = {
    "model.embed_tokens": "tok_embeddings",
    "model.layers.": "layers.",
    "model.norm": "norm",
    "lm_head": "output",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}


def documents(language: str, first_words: str, count: int) -> list[str]:
    with zstandard.open(QUICKSTART / f"{language}.txt.zst", "rt", encoding="utf-8") as file:
        texts = file.read().split("\n\f\n")
    first = next(at for at, text in enumerate(texts) if first_words in text)
    return texts[first : first + count]


def tokenizer_of(texts: list[str]) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=640,
        special_tokens=["<unk>", "<s>", END],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def write_cache(path: pathlib.Path, texts: list[str], tokenizer: tokenizers.Tokenizer) -> list[int]:
    """Writes a line for each document, and in the `.meta` file where each line starts and how many tokens it has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, offset, all_tokens = [], 0, []
    with path.open("wb") as file:
        for text in texts:
            tokens = tokenizer.encode(text).ids + [tokenizer.token_to_id(END)]
            line = (json.dumps({"tokens": tokens}) + "\n").encode()
            file.write(line)
            rows.append((offset, len(tokens)))
            offset += len(line)
            all_tokens += tokens
    with path.with_suffix(".bin.meta").open("wb") as file:
        numpy.save(file, numpy.array(rows, dtype=numpy.int32))
    return all_tokens


def trained(tokens: list[int], vocabulary: int) -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=24,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = transformers.LlamaForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    stream = torch.tensor(tokens)
    for _ in range(250):
        starts = torch.randint(len(tokens) - SEQ, (16,))
        batch = torch.stack([stream[start : start + SEQ] for start in starts])
        loss = model(batch, labels=batch).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.half()


def loss_on(model: transformers.LlamaForCausalLM, tokens: list[int]) -> float:
    """Returns the mean loss on sequences that begin with the last token of the one before, as `eval.perplexity` sees them."""
    starts = range(0, len(tokens) - SEQ, SEQ)
    batch = torch.tensor([tokens[start : start + SEQ + 1] for start in starts])
    with torch.no_grad():
        logits = model.float()(batch[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).item()


def internevo_state(model: transformers.LlamaForCausalLM) -> dict[str, torch.Tensor]:
    """Returns the weights under InternEvo's names. Its rotary positions turn neighbours, Hugging Face's turn halves."""
    heads = model.config.num_attention_heads
    state = {}
    for name, weight in model.state_dict().items():
        if "q_proj" in name or "k_proj" in name:
            rows, columns = weight.shape
            weight = weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        state[name] = weight.clone()
    return state


def main() -> None:
    proverbs = documents("english", "The proverbs of Solomon the son of David", 5)
    all_poems = documents("chinese", "《夜思》", 1)[0].split("\n\n")
    poems = [poem for poem in all_poems if len(poem) < 100][:44]
    tokenizer = tokenizer_of(proverbs + poems)
    tokens = write_cache(pathlib.Path("cache/train/cn/poems.bin"), poems[4:], tokenizer)
    tokens += write_cache(pathlib.Path("cache/train/en/proverbs.bin"), proverbs[:4], tokenizer)
    held_out = write_cache(pathlib.Path("cache/valid/cn/poems.bin"), poems[:4], tokenizer)
    held_out += write_cache(pathlib.Path("cache/valid/en/proverbs.bin"), proverbs[4:], tokenizer)

    model = trained(tokens, tokenizer.get_vocab_size())
    folder = pathlib.Path("model")
    folder.mkdir(exist_ok=True)
    torch.save(internevo_state(model), folder / "model_tp0_pp0.pt")
    model.config.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": END}) + "\n")
    print(f"{len(tokens)} tokens, {len(held_out)} held out: loss {loss_on(model, held_out):.4f}")


if __name__ == "__main__":
    main()
