"""Writes the donors of tests/golden/stages: `donor.gguf`, a tiny Llama in several quantisations with the tokenizer beside it, and
`donor`, another in bfloat16 as a Hugging Face folder without its tokenizer, which the test adds.

    python scripts/reference/golden.py

needs numpy, gguf, torch and safetensors. The weights are random from a fixed seed; nothing but the golden digests depends on them.
"""

import json
import pathlib

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "stages"
WIDTH, FFN, DEPTH, HEADS, KV_HEADS = 32, 64, 3, 4, 2
RNG = np.random.default_rng(5)
TOKENIZER = json.loads((HERE / "tokenizer.json").read_text())
VOCAB = TOKENIZER["model"]["vocab"]


def weights(rows, columns=WIDTH):
    return RNG.normal(0, 0.1, (rows, columns)).astype(np.float32)


def layers(depth):
    kv = WIDTH // HEADS * KV_HEADS
    for layer in range(depth):
        yield layer, dict(q=weights(WIDTH), k=weights(kv), v=weights(kv), o=weights(WIDTH), gate=weights(FFN), up=weights(FFN),
                          down=weights(WIDTH, FFN), norms=1 + weights(2))


def write_gguf():
    writer = gguf.GGUFWriter(HERE / "donor.gguf", "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FFN)
    writer.add_block_count(DEPTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(VOCAB))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(VOCAB, key=VOCAB.get))
    writer.add_token_types([3] + [1] * (len(VOCAB) - 1))
    writer.add_token_merges([" ".join(pair) for pair in TOKENIZER["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)

    def add(name, array, kind):
        if kind in (Type.F32, Type.F16):
            writer.add_tensor(name, array.astype(np.float32 if kind == Type.F32 else np.float16))
        else:
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)

    add("token_embd.weight", weights(len(VOCAB)), Type.Q8_0)
    add("output_norm.weight", 1 + weights(1)[0], Type.F32)
    add("output.weight", weights(len(VOCAB)), Type.F16)
    for layer, part in layers(DEPTH):
        name = f"blk.{layer}."
        add(name + "attn_q.weight", part["q"], Type.Q8_0)
        add(name + "attn_k.weight", part["k"], Type.Q5_0)
        add(name + "attn_v.weight", part["v"], Type.Q5_1)
        add(name + "attn_output.weight", part["o"], Type.Q4_1)
        add(name + "ffn_gate.weight", part["gate"], Type.Q4_0)
        add(name + "ffn_up.weight", part["up"], Type.Q8_0)
        add(name + "ffn_down.weight", part["down"], Type.BF16)
        add(name + "attn_norm.weight", part["norms"][0], Type.F32)
        add(name + "ffn_norm.weight", part["norms"][1], Type.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_folder():
    folder = HERE / "donor"
    folder.mkdir(exist_ok=True)
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=len(VOCAB), hidden_size=WIDTH,
                  intermediate_size=FFN, num_hidden_layers=1, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS,
                  max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=True, bos_token_id=0,
                  eos_token_id=0)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    tensors = {"model.embed_tokens.weight": weights(len(VOCAB)), "model.norm.weight": 1 + weights(1)[0]}
    for layer, part in layers(1):
        name = f"model.layers.{layer}."
        for key in "qkvo":
            tensors[f"{name}self_attn.{key}_proj.weight"] = part[key]
        for key in ("gate", "up", "down"):
            tensors[f"{name}mlp.{key}_proj.weight"] = part[key]
        tensors[name + "input_layernorm.weight"] = part["norms"][0]
        tensors[name + "post_attention_layernorm.weight"] = part["norms"][1]
    tensors = {name: torch.from_numpy(array).to(torch.bfloat16).contiguous() for name, array in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


write_gguf()
write_folder()
