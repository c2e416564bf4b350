"""Speed of tfrl and of its rivals on named workloads; see `docs/benchmarks.md`."""
