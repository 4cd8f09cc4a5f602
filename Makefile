# Every target works on a fresh machine, as root or not, without a terminal; `scripts/setup` installs what is missing.

.PHONY: run build test bench lint sqlx setup clean help
.DEFAULT_GOAL := help

run: build ## The whole system on this machine, data in .dev/data
	exec target/release/usage-ledger dev $(ARGS)

build: setup ## target/release/usage-ledger
	cargo build --release --package usage-ledger

test: setup ## All tests, on servers of their own (ARGS="-p nats" for some)
	scripts/test $(ARGS)

bench: setup ## Measures against baselines on this machine; writes target/bench.json
	cargo build --release --package usage-ledger --package bench
	exec target/release/bench $(ARGS)

lint: setup ## Formatting, clippy, dependencies
	scripts/lint

sqlx: setup ## Regenerates store/.sqlx
	scripts/sqlx

setup: ## Installs what is missing
	@scripts/setup

clean: ## Removes what was built; .dev (servers, data) stays
	cargo clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
