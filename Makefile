# The two commands of the README are `make demo` and `make test`.

.DEFAULT_GOAL := help
.PHONY: help demo test build lint simulate model bench partition

help:
	@echo 'make demo       install what is missing, build, run a cluster of three on this machine'
	@echo 'make test       install what the tests need, run every test against real servers, simulate, and count'
	@echo '                what the proxy needs for a query'
	@echo 'make simulate   clusters in virtual time, with new faults, until a promise breaks or Ctrl-C'
	@echo 'make model      a cluster of three with every two faults, to the end, then one of four, for 30 minutes'
	@echo 'make partition  a cluster on hosts of its own (network namespaces; root), and a nemesis between them:'
	@echo '                SECONDS_RUN=180, SEED=any one'
	@echo 'make build      build the programs (target/release)'
	@echo 'make lint       formatting, lints, directions of dependencies'
	@echo 'make bench      how long writes pause in a failover and in a switchover, and what the proxy costs beside
	@echo '                its peers; with floors'

demo:
	@.ci/install demo
	cargo build --release --bins
	target/release/dugong up

test:
	@.ci/install test
	@.ci/versions || [ $$? = 3 ]
	cargo build --workspace --bins
	@if cargo nextest --version >/dev/null 2>&1; then \
		echo 'cargo nextest run --workspace'; cargo nextest run --workspace; \
	else \
		echo 'cargo test --workspace'; cargo test --workspace; \
	fi
	cargo build --release --bins
	target/release/simulate --runs 20000
	target/release/modelcheck
	target/release/modelcheck --prove
	target/release/dugong-bench counts --proxy target/release/dugong-proxy
	@.ci/versions missing

simulate:
	cargo build --release --bins
	target/release/simulate --runs 100000000 --first-seed $$(date +%s)000

model:
	cargo build --release --bins
	target/release/modelcheck --faults 2 --grain swift --one-by-one
	target/release/modelcheck --instances 4 --faults 2 --grain swift --minutes 30

SECONDS_RUN ?= 180

partition:
	@.ci/install test
	cargo build --release --bins
	target/release/lab partition --seconds $(SECONDS_RUN) $(if $(SEED),--seed $(SEED))

build:
	cargo build --release --bins

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	@.ci/directions

bench:
	@.ci/install bench
	cargo build --release --bins
	target/release/dugong-bench failover
	target/release/dugong-bench switchover
	target/release/dugong-bench proxies
