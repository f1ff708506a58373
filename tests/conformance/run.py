"""Runs cases through an engine, or both, and sums up; fails where a number is wrong.

    run.py PROGRAM OUT PACK... [--library LIBRARY] [--engine rten|onnxruntime|both]
"""

import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys
import threading

# Without it the library of ONNX Runtime is not opened: it would report its use.
ENVIRONMENT = os.environ | {"ORT_DISABLE_TELEMETRY": "1"}


def results(program, pack, options):
    """The answers for all cases of a file; a case that ends the process is wrong, and those after it are run."""
    start = 0
    while True:
        command = [program, pack, "--from", str(start), *options]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
        last = start - 1
        for line in child.stdout:
            answer = json.loads(line)
            last = answer["index"]
            yield answer | {"pack": pack}
        if child.wait() == 0:
            return
        yield {
            "index": last + 1, "name": f"{pack} number {last + 1}", "verdict": "wrong", "reason": "the process ended",
            "about": {}, "pack": pack,
        }  # fmt: skip
        start = last + 2


def collect(program, packs, options):
    answers = []
    jobs = list(packs)
    lock = threading.Lock()

    def work():
        while True:
            with lock:
                if not jobs:
                    return
                pack = jobs.pop()
            answers.extend(results(program, pack, options))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def is_refused(answer):
    return answer["verdict"] in ("refused", "failed")


def summary(engine, answers):
    counts = collections.Counter(a["verdict"] for a in answers)
    total = sum(counts.values())
    share = 100 * (counts["refused"] + counts["failed"]) / max(total, 1)
    print(
        f"{engine}: {total} cases: {counts['right']} right, {counts['refused']} refused at deploy, {counts['failed']} refused at run, "
        f"{counts['wrong']} wrong ({share:.1f} % refused)"
    )
    alone = [a for a in answers if a["verdict"] == "right" and a["about"].get("judges") == "runtime"]
    if engine == "onnxruntime" and alone:
        print(f"  of the right ones {len(alone)} have no judge but ONNX Runtime itself")
    for a in answers:
        if a["verdict"] == "wrong":
            print(f"  {a['name']}: {a['reason']}  {json.dumps(a['about'])[:300]}")
    return counts["wrong"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("out")
    parser.add_argument("packs", nargs="+")
    parser.add_argument("--library")
    parser.add_argument("--engine", choices=["rten", "onnxruntime", "both"], default="rten")
    parser.add_argument("--refused-max", type=float, help="most refused by all engines that run, in percent")
    args = parser.parse_args()
    engines = ["rten", "onnxruntime"] if args.engine == "both" else [args.engine]
    wrong, refused = 0, None
    for engine in engines:
        options = ["--library", args.library] if engine == "onnxruntime" else []
        answers = collect(args.program, args.packs, options)
        path = pathlib.Path(f"{args.out}-{engine}.jsonl")
        path.write_text("".join(json.dumps(a) + "\n" for a in answers))
        wrong += summary(engine, answers)
        these = {(a["pack"], a["index"]) for a in answers if is_refused(a)}
        refused = these if refused is None else refused & these
    share = 100 * len(refused) / max(len(answers), 1)
    if len(engines) > 1:
        print(f"refused by both: {len(refused)} ({share:.1f} %)")
    if args.refused_max is not None and share > args.refused_max:
        print(f"  more than {args.refused_max} %")
        wrong += 1
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
