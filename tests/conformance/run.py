"""Runs cases through the embedded engine and sums up: `run.py PROGRAM PACK...`; fails where a number is wrong."""

import collections
import json
import pathlib
import subprocess
import sys
import threading


def results(program, pack):
    """The answers for all cases of a file; a case that ends the process is wrong, and those after it are run."""
    start = 0
    while True:
        child = subprocess.Popen([program, pack, "--from", str(start)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        last = start - 1
        for line in child.stdout:
            answer = json.loads(line)
            last = answer["index"]
            yield answer
        if child.wait() == 0:
            return
        yield {"index": last + 1, "name": f"{pack} number {last + 1}", "verdict": "wrong", "reason": "the process ended", "about": {}}
        start = last + 2


def collect(program, packs):
    answers = []
    jobs = list(packs)
    lock = threading.Lock()

    def work():
        while True:
            with lock:
                if not jobs:
                    return
                pack = jobs.pop()
            answers.extend(results(program, pack))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def main():
    program, out, *packs = sys.argv[1:]
    answers = collect(program, packs)
    pathlib.Path(out).write_text("".join(json.dumps(a) + "\n" for a in answers))
    counts = collections.Counter(a["verdict"] for a in answers)
    total = sum(counts.values())
    share = 100 * (counts["refused"] + counts["failed"]) / max(total, 1)
    print(f"{total} cases: {counts['right']} right, {counts['refused']} refused at deploy, {counts['failed']} refused at run, "
          f"{counts['wrong']} wrong ({share:.1f} % refused)")
    for a in answers:
        if a["verdict"] == "wrong":
            print(f"  {a['name']}: {a['reason']}  {json.dumps(a['about'])[:300]}")
    sys.exit(1 if counts["wrong"] else 0)


if __name__ == "__main__":
    main()
