.PHONY: check test bench bench-models bench-loading bench-mixers bench-tables bench-sandwich \
    bench-weight-sharing bench-pretraining bench-compiling bench-exact bench-kills bench-few-samples \
    bench-two-levels bench-active-choice bench-coverage bench-sharing \
    bench-evaluated-subnets

check:
	ruff format --check .
	ruff check .
	mypy

test:
	pytest

bench:
	python -m tests.benchmarks.search --base 7553ded

bench-sharing: # three minutes on one core
	python -m tests.benchmarks.sharing

bench-models: # rivals: timm, where it is installed, and `--rival NAME=MODULE:FUNCTION`
	python -m tests.benchmarks.models

bench-loading: # reading pictures beside the fastest training steps
	python -m tests.benchmarks.loading

bench-mixers:
	python -m tests.benchmarks.mixers

bench-tables: # most of an hour each, on a machine with nothing else to do
	python -m tests.benchmarks.tables --runtime onnxruntime
	python -m tests.benchmarks.tables --runtime litert

bench-sandwich:
	python -m tests.benchmarks.sandwich

bench-weight-sharing: # an hour on two cores, minutes with `--accelerator cuda --processes 12`
	python -m tests.benchmarks.weight_sharing --work results/runs/weight-sharing --processes 2

bench-two-levels: # two minutes, from the record of bench-weight-sharing
	python -m tests.benchmarks.two_levels

bench-pretraining: # half an hour
	python -m tests.benchmarks.pretraining

bench-compiling: # on the first GPU where there is one
	python -m tests.benchmarks.compiling

bench-few-samples: # half an hour on one core; TABLES: a folder of public tables, see the module
	python -m tests.benchmarks.few_samples --tables $(TABLES)

bench-active-choice: # minutes on one core; TABLES as of bench-few-samples
	python -m tests.benchmarks.active_choice --tables $(TABLES)

bench-coverage: # minutes; measures latencies too, so on a machine with nothing else to do
	python -m tests.benchmarks.coverage --tables $(TABLES) --work results/runs/coverage

bench-evaluated-subnets: # an hour on one core, of which predictors take some minutes
	python -m tests.benchmarks.evaluated_subnets --work results/runs/evaluated-subnets

bench-exact: # three minutes on one core
	python -m tests.benchmarks.exact

bench-kills:
	python -m tests.benchmarks.kills
