"""Throughput of `data build` beside `datasets.map`: the same tokenizer, the same documents, in one run.

    python tools/data_speed.py TEXT… --copies 1 4 --workers 1

It needs `pip install 'fast-electra[datasets]'`. The documents of TEXT are written as JSON lines; each copy has its
number in front of every document, so that no document is a duplicate. Either side is a process of its own, from its
start to the files that it leaves: it reads the text, tokenises it and writes the tokens. CPU time is that of the
process and of its children; it hardly changes when other programs run on the machine. `data build` also removes
duplicates, divides the text into splits and computes digests of its files.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from fast_electra.data.settings import TokenizerConfig
from fast_electra.data.sources import Sources
from fast_electra.data.tokenizer_training import train_tokenizer

_SAMPLE = 20_000_000
"""characters that the tokenizer is trained on"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="+", help="files or folders that `data build` reads")
    parser.add_argument("--copies", nargs="+", type=int, default=[1], help="sizes: how many copies of the text")
    parser.add_argument("--workers", type=int, default=1, help="processes of either side")
    parser.add_argument("--vocabulary", type=int, default=16_384, help="of the tokenizer, which is trained on the text")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="data-speed-") as made:
        folder = Path(made)
        tokenizer = folder / "tokenizer"
        settings = TokenizerConfig(vocabulary_size=asked.vocabulary)
        train_tokenizer(_sample(asked.text), settings, length=128).save_pretrained(str(tokenizer))
        print(f"{asked.workers} process(es); CPU time of a process and its children\n")
        print("| text | program | MB/s a core | CPU seconds | wall seconds | tokens | largest process, MB |")
        print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
        for copies in asked.copies:
            file = folder / f"{copies}.jsonl"
            size = _write(asked.text, copies, file)
            rates = []
            for name, command in _commands(file, tokenizer, folder / f"out-{copies}", asked.workers).items():
                found = _measured(command)
                rates.append(size / 1e6 / found["cpu"])
                print(
                    f"| {size / 1e6:,.0f} MB | {name} | {rates[-1]:.2f} | {found['cpu']:,.0f} | {found['wall']:,.0f} | "
                    f"{found['tokens']:,} | {found['peak'] / 1e6:,.0f} |",
                    flush=True,
                )
            print(f"\n{size / 1e6:,.0f} MB: {rates[0] / rates[1]:.2f} times the rate of datasets.map\n", flush=True)
            file.unlink()


def _sample(texts: Sequence[str]) -> Any:
    read = 0
    for document in Sources(texts):
        yield document.text
        read += len(document.text)
        if read > _SAMPLE:
            return


def _write(texts: Sequence[str], copies: int, file: Path) -> int:
    """Write the documents as JSON lines; returns the bytes of their text."""
    size = 0
    with file.open("w", encoding="utf-8") as out:
        for copy in range(copies):
            for document in Sources(texts):
                text = f"{copy} {document.text}" if copy else document.text
                size += len(text.encode())
                out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    return size


def _commands(file: Path, tokenizer: Path, out: Path, workers: int) -> dict[str, list[str]]:
    build = [sys.executable, "-m", "fast_electra", "data", "build", "text-hour", f"data.sources=[{file}]"]
    build += [f"data.tokenizer.path={tokenizer}", f"data.workers={workers}", "--out", str(out / "shards"), "--json"]
    peer = [sys.executable, __file__, "--peer", str(file), str(tokenizer), str(out / "peer"), str(workers)]
    return {"`data build`": build, "`datasets.map`": peer}


def _measured(command: list[str]) -> dict[str, Any]:
    """Run a command; returns CPU and wall seconds, tokens, and the bytes of its largest process."""
    began = time.perf_counter()
    variables = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=variables)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed: run it alone to see why.")
    return {
        "cpu": usage.ru_utime + usage.ru_stime,
        "wall": time.perf_counter() - began,
        "tokens": json.loads(printed.splitlines()[-1])["tokens"],
        "peak": usage.ru_maxrss * 1024,
    }


def peer(file: str, tokenizer: str, out: str, workers: int) -> None:
    """Tokenise with `datasets.map`, as its documentation does."""
    datasets = import_module("datasets")  # an extra
    load: Any = import_module("transformers").AutoTokenizer.from_pretrained(tokenizer)
    datasets.disable_progress_bars()

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        ids = load(batch["text"], add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        return {"input_ids": [[*each, load.sep_token_id] for each in ids]}

    text = datasets.load_dataset("json", data_files=file, split="train", cache_dir=out)
    made = text.map(encode, batched=True, remove_columns=["text"], num_proc=workers if workers > 1 else None)
    lists = (chunk for table in made.with_format("arrow").iter(10_000) for chunk in table["input_ids"].chunks)
    count = sum(len(chunk.values) for chunk in lists)
    print(json.dumps({"tokens": count, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        given = sys.argv[2:]
        peer(given[0], given[1], given[2], int(given[3]))
    else:
        main()
