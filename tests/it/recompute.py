#!/usr/bin/env python3
"""Recomputes the charge of every record that a host still has, with fractions, and the sums of its usage report.

It shares nothing with the host: the records and the price plans come from the control API, and the arithmetic is that
of Python's `fractions`. Exits with 1 where anything differs. Standard library only; Python 3.11 or later.

    recompute.py --url http://127.0.0.1:7071 --key vk_... [--tenant NAME ...]
"""

import argparse
import hashlib
import json
import sys
import tomllib
import urllib.parse
import urllib.request
from collections import defaultdict
from fractions import Fraction

NANO, EXA = 10**9, 10**18

# Every price of a plan, with what of a record it is the price of.
PRICED = {
    "guest_cpu_second": lambda r: Fraction(r["guest_cpu_ns"], NANO),
    "inference_cpu_second": lambda r: Fraction(r["inference_cpu_ns"], NANO),
    "cold_start_cpu_second": lambda r: Fraction(r["cold_start_cpu_ns"], NANO),
    "outbound_cpu_second": lambda r: Fraction(r["outbound_cpu_ns"], NANO),
    "handler_cpu_second": lambda r: Fraction(r["handler_cpu_ns"], NANO),
    "deploy_cpu_second": lambda r: Fraction(r["deploy_cpu_ns"], NANO),
    "memory_gb_second": lambda r: Fraction(
        r["peak_memory_bytes"] * r["memory_ns"] + r["model_memory_peak_bytes"] * r["model_memory_ns"], EXA
    ),
    "request": lambda r: Fraction(r["kind"] == "invocation"),
    "start": lambda r: Fraction(r["cold"]),
    "gb_in": lambda r: Fraction(r["bytes_in"], NANO),
    "gb_out": lambda r: Fraction(r["bytes_out"], NANO),
}

# Sums of a usage report that are sums of a record's fields, and memory in 10^-18 gigabyte-seconds.
CPU = ["guest_cpu_ns", "inference_cpu_ns", "cold_start_cpu_ns", "outbound_cpu_ns", "handler_cpu_ns", "deploy_cpu_ns"]
COUNTS = [*CPU, "bytes_in", "bytes_out"]
KINDS = {"invocation": "invocations", "deployment": "deployments"}


def attos(text):
    """A decimal of at most 18 places as a whole number of 10^-18."""
    value = Fraction(text) * EXA
    assert value.denominator == 1, text
    return value.numerator


def is_free(record):
    """The platform's own failures cost nothing, nor does what never began."""
    outcome = record["outcome"]
    return outcome in ("platform_error", "start_failed") or (outcome == "host_memory" and record["guest_cpu_ns"] == 0)


def charge(record, plan):
    """The charge in 10^-18 of the currency's unit: the exact sum, rounded once, half to even (as `round` does)."""
    if is_free(record):
        return 0
    return round(sum(Fraction(price) * PRICED[name](record) for name, price in plan["prices"].items()) * EXA)


class Api:
    def __init__(self, url, key):
        self.url, self.key = url.rstrip("/"), key

    def get(self, path, **params):
        query = urllib.parse.urlencode({k: v for k, v in params.items() if v is not None})
        request = urllib.request.Request(f"{self.url}/api/v1/{path}?{query}")
        request.add_header("Authorization", f"Bearer {self.key}")
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def plans(self):
        plans = {}
        for plan in self.get("price-plans")["price_plans"]:
            identity = hashlib.sha256(plan["text"].encode()).hexdigest()[:12]
            assert identity == plan["id"], f"{plan['id']}: its text has the identity {identity}"
            text = tomllib.loads(plan["text"])
            rule, currency = text.pop("rule"), text.pop("currency")
            assert rule == "vesta-price/1", f"{plan['id']}: the rule {rule} is not known here"
            assert not text.keys() - PRICED.keys(), f"{plan['id']}: prices that are not known here: {text}"
            plans[identity] = {"currency": currency, "prices": text}
        return plans

    def pages(self, path, key, cursor, **params):
        """All items of an answer that comes in pages, and the first page."""
        page = first = self.get(path, limit=1000, **params)
        items = page[key]
        while "next" in page:
            page = self.get(path, limit=1000, **params, **{cursor: page["next"]})
            items += page[key]
        return items, first


def sums_of(records):
    """The sums by function, day and currency, as a usage report has them."""
    sums = defaultdict(lambda: defaultdict(int))
    for r in records:
        row = sums[r["function"], r["started_at"][:10], r["currency"]]
        row[KINDS[r["kind"]]] += 1
        row["charge"] += attos(r["charge"])
        row["memory_gb_s"] += r["peak_memory_bytes"] * r["memory_ns"]
        row["memory_gb_s"] += r["model_memory_peak_bytes"] * r["model_memory_ns"]
        for name in COUNTS:
            row[name] += r[name]
    return sums


def reported(row):
    sums = {name: row[name] for name in [*KINDS.values(), *COUNTS]}
    return sums | {name: attos(row[name]) for name in ["charge", "memory_gb_s"]}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--url", required=True, help="of the control API")
    arguments.add_argument("--key", required=True)
    arguments.add_argument("--tenant", action="append", help="for an operator's key; may be repeated")
    arguments = arguments.parse_args()
    api = Api(arguments.url, arguments.key)
    plans = api.plans()
    found = {"records": 0, "without_plan": 0, "differences": 0, "sums_compared": 0, "sums_that_differ": 0}
    outcomes, currencies = defaultdict(int), defaultdict(int)
    for tenant in arguments.tenant or [None]:
        records = []
        for kind in KINDS:
            records += api.pages("invocations", "invocations", "before", tenant=tenant, kind=kind)[0]
        for record in records:
            found["records"] += 1
            outcomes[record["outcome"]] += 1
            currencies[record["currency"]] += attos(record["charge"])
            if record["price_plan"] is None:
                found["without_plan"] += 1
                continue
            plan = plans[record["price_plan"]]
            expected = charge(record, plan)
            if expected != attos(record["charge"]) or plan["currency"] != record["currency"]:
                found["differences"] += 1
                print(f"{record['id']}: {record['charge']}, and not {expected} of 10^-18", file=sys.stderr)
        rows, first = api.pages("usage", "rows", "cursor", tenant=tenant, by="function,day")
        assert first["complete"], "the ledger lags behind"
        sums, totals = sums_of(records), defaultdict(int)
        for row in rows:
            key = row["function"], row["day"], row["currency"]
            totals[row["currency"]] += attos(row["charge"])
            found["sums_compared"] += 1
            if reported(row) != {name: 0 for name in KINDS.values()} | dict(sums.pop(key, {})):
                found["sums_that_differ"] += 1
                print(f"the sums of {key} differ: {row}", file=sys.stderr)
        # Records without a row of sums, and totals that are not the sums of their rows.
        found["sums_that_differ"] += len(sums)
        found["sums_that_differ"] += totals != {t["currency"]: attos(t["charge"]) for t in first["totals"]}
    decimal = {c: f"{n // EXA}.{n % EXA:018d}" for c, n in sorted(currencies.items())}
    print(json.dumps(found | {"outcomes": dict(outcomes), "charges": decimal}))
    sys.exit(1 if found["differences"] or found["sums_that_differ"] else 0)


if __name__ == "__main__":
    main()
