# Targets for developers and CI. `make` alone lists them.

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed-by-make

# Programs that tests drive and pip cannot install
DEBIAN_PACKAGES := e2fsprogs groff-base strace tmux systemd dbus chromium-headless-shell zsh fish nodejs php-cli \
	php-illuminate-console cron gcc libc6-dev msmtp promtool slurmctld slurmd slurm-client munge

# Core and wire can be tested alone, so every branch of them has to be
PURE_ROOMS := core wire
PURE_TESTS := $(addprefix tests/,$(PURE_ROOMS))

# Counts of what fixed workloads cost
GUARD := tests/guard

# What `make test` runs, each in a process of its own. The longest begin first; the short ones fill the gaps.
PARTS := bgctl others launcher series fault-series systemd daemon slurm warm web-pages web-lists web pure-rooms
series := $(wildcard tests/end_to_end/test_[a-k]*.py)
fault-series := $(wildcard tests/end_to_end/test_[l-z]*.py) tests/faults tests/testing
warm := tests/launcher/warm tests/worker
launcher := --ignore=tests/launcher/warm tests/launcher
bgctl := tests/bgctl
systemd := tests/systemd
web := $(wildcard tests/daemon/web/test_[a-k]*.py)
web-lists := $(wildcard tests/daemon/web/test_l*.py)
web-pages := $(wildcard tests/daemon/web/test_[m-z]*.py)
slurm := tests/slurm
daemon := --ignore=tests/daemon/web tests/daemon tests/cron tests/docs
others := $(addprefix --ignore=,$(PURE_TESTS) $(GUARD) tests/end_to_end $(filter tests/%,$(foreach part,$(filter-out others pure-rooms,$(PARTS)),$($(part))))) tests

# The first Python that is new enough and can create virtual environments
PYTHONS := python3 python3.11 python3.12 python3.13 python3.14
PYTHON = $(shell for python in $(PYTHONS); do \
	$$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; \
	done)

PREFIX := /usr/local
SYSCONFDIR := /etc

comma := ,
empty :=
space := $(empty) $(empty)
# One word for the shell, whatever it contains
quoted = '$(subst ','\'',$(1))'

.DEFAULT_GOAL := help
.PHONY: help setup blocking check bench bench-compare bench-slurm client man test test-long $(addprefix test-,$(PARTS)) simulate fuzz faults slurm-faults cron-oracle debian-packages demo cluster-demo pictures install pins dist deb uninstall clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

setup: blocking  ## create .venv with bgd and the developers' tools

# Tests start Python thousands of times. What setuptools installs to find packages in two folders, and distutils,
# would be imported at every start: 17 ms, more than Python itself takes. A path and a link do as well.
$(INSTALLED): pyproject.toml
	@test -n "$(PYTHON)" || { echo "bgd needs Python 3.11 or newer, with its venv module" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	cd $(VENV)/lib/python3.*/site-packages && rm -f distutils-precedence.pth && \
		printf '%s\n' $(call quoted,$(CURDIR)) >"$$(echo __editable__.bgd-*.pth)" && \
		ln -sfn $(call quoted,$(CURDIR)/bgd/inside/bgd_job) bgd_job
	touch $@

blocking: $(INSTALLED)
	@$(BIN)/python setup.py

check: blocking  ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --explicit-package-bases bgd bgctl tests

client: blocking  ## generate the types of job options, and the blocking client
	$(BIN)/python tests/client/options.py

man: blocking  ## generate the manual pages from the help texts
	$(BIN)/python -m tests.docs.manual

# The guard first, alone: how often threads wait for each other depends on how busy the machine is. Then eight
# processes, because most tests mostly wait for other processes. Not $(MAKE): `make --dry-run` would run these
# lines. Background processes of a shell ignore Ctrl-C, those under nohup hangups; some tests need both: see `env`.
# Of the parts, tests.again decides: a part with AGAIN fails only if pytest does not say which tests failed.
PYTEST := $(BIN)/pytest --slow -p no:anyio
test: blocking debian-packages  ## run all tests; core and wire need full branch coverage
	@rm -rf .pytest_cache; $(PYTEST) $(GUARD); failed=$$?; \
	env --default-signal=HUP,INT,QUIT make --no-print-directory --keep-going --jobs=8 --output-sync AGAIN=yes \
		$(addprefix test-,$(PARTS)) || failed=1; \
	$(BIN)/python -m tests.again || failed=1; \
	exit $$failed

unexport MAKEFLAGS  # some tests run make, which would ask this one for leave
unexport PYTHONDONTWRITEBYTECODE  # each pytest would rewrite the asserts of all of Hypothesis, which takes a second

$(addprefix test-,$(filter-out pure-rooms,$(PARTS))): test-%: blocking
	$(PYTEST) -o cache_dir=.pytest_cache/$* $($*) \
		$(if $(AGAIN),|| test $$? = 1 -a -s .pytest_cache/$*/v/cache/lastfailed)

test-pure-rooms: blocking
	$(BIN)/coverage run --source=$(subst $(space),$(comma),$(addprefix bgd/,$(PURE_ROOMS))) -m pytest --slow $(PURE_TESTS)
	$(BIN)/coverage report --show-missing --skip-covered --fail-under=100

test-long: export HYPOTHESIS_PROFILE := long
test-long: test  ## run all tests, with more and longer random histories

simulate: blocking  ## simulate 200,000 random histories with crashes (HISTORIES=500: fewer; SEED=4711: repeat one)
	PYTHONHASHSEED=0 $(BIN)/python -m tests.simulation $(if $(HISTORIES),--histories $(HISTORIES)) $(if $(SEED),--seed $(SEED))

fuzz: blocking  ## fuzz everything that reads bytes, for TIME=600 seconds (TARGET=http: one target)
	$(BIN)/python -m tests.fuzz $(if $(TIME),--time $(TIME)) $(if $(TARGET),--target $(TARGET))

faults: blocking debian-packages  ## run all fault series, for hours (SHARE=0.1: a tenth); writes docs/faults.md
	$(BIN)/python -m tests.faults $(if $(SHARE),--share $(SHARE)) $(CASES)

slurm-faults: blocking debian-packages  ## kill everything, and cut the power, while 1,000 jobs run on Slurm (JOBS=200: fewer); writes docs/faults.md
	$(BIN)/python -m tests.faults --share $(shell awk 'BEGIN { print $(or $(JOBS),1000) / 1000 }') tests/slurm/test_slurm_chaos.py tests/slurm/test_resets.py tests/slurm/test_site.py

cron-oracle: blocking debian-packages  ## compare 1,000 crontab lines with Debian's cron, for some minutes (LINES=5000: more)
	CRON_LINES=$(or $(LINES),1000) $(PYTEST) tests/cron

debian-packages:
	@missing=$$(for package in $(DEBIAN_PACKAGES); do \
		dpkg-query --show --showformat '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || echo $$package; \
	done); \
	if test -z "$$missing"; then exit 0; fi; \
	if test "$$(id -u)" = 0; then \
		apt-get update --quiet; \
		apt-get install --yes --no-install-recommends $$missing </dev/null && exit 0; \
	fi; \
	echo "*** NOT INSTALLED: $$missing. The tests that need it are SKIPPED. ***" >&2

bench: blocking  ## measure bgd and its peers, for an hour; writes docs/benchmarks.md (QUESTIONS="submit start", ROUNDS=1)
	$(BIN)/python -m tests.bench $(QUESTIONS) $(if $(ROUNDS),--rounds $(ROUNDS)) $(OPTIONS)

bench-compare: blocking  ## measure BASE=revision and the last commit in turns (QUESTIONS="submit start": only these)
	$(BIN)/python -m tests.bench.compare $(BASE) $(QUESTIONS) $(if $(ROUNDS),--rounds $(ROUNDS))

bench-slurm: blocking debian-packages  ## measure ways to hand jobs to Slurm, and local jobs beside it, on two nodes (as root; EXECUTORS="cluster", ROUNDS=1)
	$(BIN)/python -m tests.bench.slurm $(EXECUTORS) $(if $(ROUNDS),--rounds $(ROUNDS)) $(OPTIONS)
	$(BIN)/python -m tests.bench.local_starts $(ROUNDS)

demo: blocking  ## show a private daemon at work, with a kill -9
	$(BIN)/python examples/demo.py

install: PYTHONS := /usr/bin/python3 /usr/local/bin/python3 $(PYTHONS)
install:  ## install bgd and its units below PREFIX (/usr/local), for all users; DESTDIR stages a package
	@test -n "$(PYTHON)" || { echo "bgd needs Python 3.11 or newer, with its venv module" >&2; exit 1; }
	systemd/install.sh $(call quoted,$(PYTHON)) $(call quoted,$(DESTDIR)) $(call quoted,$(PREFIX)) $(call quoted,$(SYSCONFDIR))

# One file for all versions of Python and all machines; setuptools is needed to build bgd
pins: blocking  ## update the versions that `make install` installs
	$(BIN)/python -m pip install --quiet uv
	{ sed '/^#/!d' systemd/requirements.txt; \
	sed -n 's/^requires = \["\(.*\)"\]$$/\1/p' pyproject.toml \
	| $(BIN)/python -m uv pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.11 \
		--no-header --no-annotate pyproject.toml -; } >$(VENV)/pins
	cp $(VENV)/pins systemd/requirements.txt

dist: blocking  ## build the source package and the wheel of the last commit, in dist/
	systemd/dist.sh $(BIN)/python dist

deb:  ## build a Debian package in dist/, for this architecture and Python
	systemd/deb.sh dist

uninstall:  ## remove what `make install` installed; keep configuration, jobs and logs
	systemd/uninstall.sh $(call quoted,$(DESTDIR)) $(call quoted,$(PREFIX))

cluster-demo: blocking debian-packages  ## start a Slurm of two nodes, run jobs on it, and leave nothing behind (as root)
	$(BIN)/python -m tests.slurm.demo

pictures: blocking debian-packages  ## take the screenshots in docs again
	$(BIN)/python -m tests.daemon.web.pictures

clean:  ## remove .venv and all generated files
	rm -rf $(VENV) .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
