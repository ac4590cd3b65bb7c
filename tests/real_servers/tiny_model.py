"""Writes a tiny Llama with random weights: as a folder that vLLM loads, and as GGUF.

What it says is noise. It exists so that real servers schedule real requests at some hundred rows a
second on a small machine. Its tokens are the 256 bytes, pairs of letters, and three marks.

usage: tiny_model.py FOLDER
"""

import json
import pathlib
import string
import sys

import gguf
import numpy
from safetensors.numpy import save_file

NAME = "tiny-llama"
HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD, FEED_FORWARD, CONTEXT = 128, 2, 4, 2, 32, 256, 2048
ROPE_BASE, EPSILON = 10000.0, 1e-5
TEMPLATE = "<s>{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def byte_letters():
    """The letters with which byte-level BPE writes the 256 bytes."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain}
    letters.update({byte: chr(256 + n) for n, byte in enumerate(others)})
    return [letters[byte] for byte in range(256)]


MARKS = ["<s>", "</s>", "<pad>"]
MERGES = [(a, b) for a in string.ascii_lowercase for b in string.ascii_lowercase]
TOKENS = MARKS + byte_letters() + [a + b for a, b in MERGES]
TOKENS += [f"<unused{n}>" for n in range(-len(TOKENS) % 64)]
UNUSED = [token for token in TOKENS if token.startswith("<unused")]
BOS, EOS, PAD = range(3)


def weights():
    """Weights by the names that Hugging Face gives them."""
    random = numpy.random.default_rng(18)

    def matrix(rows, columns):
        return (random.standard_normal((rows, columns)) * columns**-0.5).astype(numpy.float32)

    found = {"model.embed_tokens.weight": matrix(len(TOKENS), HIDDEN), "lm_head.weight": matrix(len(TOKENS), HIDDEN)}
    for n in range(LAYERS):
        layer = f"model.layers.{n}"
        found |= {
            f"{layer}.self_attn.q_proj.weight": matrix(HEADS * HEAD, HIDDEN),
            f"{layer}.self_attn.k_proj.weight": matrix(KV_HEADS * HEAD, HIDDEN),
            f"{layer}.self_attn.v_proj.weight": matrix(KV_HEADS * HEAD, HIDDEN),
            f"{layer}.self_attn.o_proj.weight": matrix(HIDDEN, HEADS * HEAD),
            f"{layer}.mlp.gate_proj.weight": matrix(FEED_FORWARD, HIDDEN),
            f"{layer}.mlp.up_proj.weight": matrix(FEED_FORWARD, HIDDEN),
            f"{layer}.mlp.down_proj.weight": matrix(HIDDEN, FEED_FORWARD),
            f"{layer}.input_layernorm.weight": numpy.ones(HIDDEN, numpy.float32),
            f"{layer}.post_attention_layernorm.weight": numpy.ones(HIDDEN, numpy.float32),
        }
    found["model.norm.weight"] = numpy.ones(HIDDEN, numpy.float32)
    return found


def write_folder(folder, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    def write(name, value):
        (folder / name).write_text(json.dumps(value), encoding="utf-8")

    write("config.json", {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": EPSILON,
        "rope_theta": ROPE_BASE,
        "vocab_size": len(TOKENS),
        "tie_word_embeddings": False,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "torch_dtype": "float32",
    })
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    write("tokenizer.json", {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": n, "content": token, **special} for n, token in enumerate(TOKENS) if token in MARKS + UNUSED],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": level,
        "decoder": level,
        "model": {"type": "BPE", "vocab": {token: n for n, token in enumerate(TOKENS)}, "merges": [f"{a} {b}" for a, b in MERGES]},
    })
    write("tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "model_max_length": CONTEXT,
        "chat_template": TEMPLATE,
    })


def rope_order(matrix, heads):
    """The rows of a query or key matrix in the order in which llama.cpp rotates them."""
    rows, columns = matrix.shape
    return matrix.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(path, tensors):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(NAME)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_vocab_size(len(TOKENS))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    kinds = {**dict.fromkeys(MARKS, gguf.TokenType.CONTROL), **dict.fromkeys(UNUSED, gguf.TokenType.UNUSED)}
    writer.add_token_types([kinds.get(token, gguf.TokenType.NORMAL) for token in TOKENS])
    writer.add_token_merges([f"{a} {b}" for a, b in MERGES])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_pad_token_id(PAD)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    for name, tensor in tensors.items():
        if "q_proj" in name:
            tensor = rope_order(tensor, HEADS)
        elif "k_proj" in name:
            tensor = rope_order(tensor, KV_HEADS)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    folder = pathlib.Path(sys.argv[1])
    tensors = weights()
    write_folder(folder / NAME, tensors)
    write_gguf(folder / f"{NAME}.gguf", tensors)


main()
