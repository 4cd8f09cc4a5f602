# Every target works on a fresh machine, as root or not, without a terminal; `scripts/setup` installs what is missing.

ROUNDS ?= 100
ROWS ?= 10000000

.PHONY: run build test torture bench bench-scale lint sqlx setup clean help
.DEFAULT_GOAL := help

run: setup ## The whole system on this machine, data in .dev/data
	@echo "run: compiling usage-ledger and the crates it stands on, 350 or so: minutes at first, seconds later" >&2
	cargo build --profile quick --package usage-ledger
	@mkdir -p .dev/bin && ln -sf ../../target/quick/usage-ledger .dev/bin/usage-ledger
	exec scripts/with-nats .dev/bin/usage-ledger dev $(ARGS)

build: setup ## target/release/usage-ledger
	cargo build --release --package usage-ledger

test: setup ## All tests, on servers of their own (ARGS="-p nats" for some)
	scripts/test $(ARGS)

torture: setup ## Kills api, worker and servers under load, each ROUNDS=100 times, and freezes them; is all still there?
	TORTURE_ROUNDS=$(ROUNDS) TORTURE_FREEZES=4,60 scripts/test --package usage-ledger --test torture -- \
		kills stalls --nocapture

bench: setup ## Measures against baselines on this machine; writes target/bench.json
	cargo build --release --package usage-ledger --package bench
	exec scripts/with-nats target/release/bench $(ARGS)

bench-scale: setup ## A million users, ROWS=10000000 calls; up to 45 minutes; writes target/bench-scale.json
	cargo build --release --package usage-ledger --package bench
	exec scripts/with-nats target/release/bench scale --rows $(ROWS)

lint: setup ## Formatting, clippy, circles between modules, shapes of files, dependencies
	scripts/lint

sqlx: setup ## Regenerates store/.sqlx
	scripts/sqlx

setup: ## Installs what is missing
	@scripts/setup

clean: ## Removes what was built; .dev (servers, data) stays
	cargo clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
