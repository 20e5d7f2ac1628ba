.PHONY: check test bench

check:
	ruff format --check .
	ruff check .
	mypy

test:
	pytest

bench:
	python -m tests.benchmarks.search
