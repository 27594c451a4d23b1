#!/usr/bin/env python3
"""Train the byte-level BPE tokenizer of the starter model and save it in Hugging Face form.

    train_tokenizer.py --corpus corpus.jsonl --out models/starter --vocab-size 4096
"""
import argparse
import json
import os

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

# The Qwen2/Qwen3 split pattern: digits one by one, a space joins the word that follows it.
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# Parsers must see these in the decoded text, so they are added tokens but not special ones.
VISIBLE = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
CHAT_TEMPLATE = """{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def texts(path, limit):
    with open(path, encoding="utf-8") as file:
        for _, line in zip(range(limit), file):
            text = json.loads(line)["text"]
            for token in SPECIAL:
                text = text.replace(token, " ")
            yield text


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--documents", type=int, default=12000)
    args = parser.parse_args()

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, use_regex=False, trim_offsets=False)
    added = len(SPECIAL) + len(VISIBLE)
    trainer = trainers.BpeTrainer(vocab_size=args.vocab_size - added, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(texts(args.corpus, args.documents), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in VISIBLE])

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>",
                                   clean_up_tokenization_spaces=False, model_max_length=262144)
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(args.out)
    config_path = os.path.join(args.out, "tokenizer_config.json")
    with open(config_path, encoding="utf-8") as file:
        config = json.load(file)
    config.pop("backend", None)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # the name that every transformers version knows
    with open(config_path, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)
        file.write("\n")
    print(f"{len(fast)} tokens saved in {args.out}")


if __name__ == "__main__":
    main()
