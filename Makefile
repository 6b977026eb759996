# The two commands: `make demo` and `make test`. Needs Python >= 3.11 and make; everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DEMO_SEED ?= 1

.PHONY: demo test check notebooks notebook readme docs install lock clean

demo: $(READY)
	test -d demo/imc || $(BIN)/imaxt simulate imc demo/imc --regions 2 --size-um 500x500 --seed $(DEMO_SEED)
	$(BIN)/imaxt convert imc demo/imc --sample demo
	$(BIN)/imaxt run imc/segment --sample demo -p nuclear_channel=Ir191 -p membrane_channels=panCK,ECadherin,CD45,Vimentin
	$(BIN)/imaxt run analysis/cells --sample demo
	$(BIN)/imaxt report build

# Everything that CI runs.
test: $(READY) check notebooks docs
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder  # the order is conftest's

# Notebooks and package agree, nothing is left uncleaned, templates keep their contract, style and types hold.
check: $(READY)
	$(BIN)/python tests/check_tree.py
	$(BIN)/imaxt templates --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check nbs templates tests benchmarks docs
	$(BIN)/mypy

# Their temporary folders go with the test.
notebooks: $(READY)
	scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && cd nbs && \
	  TMPDIR=$$scratch ../$(BIN)/nbdev-test --n-workers 2 --timing

readme: $(READY)
	$(BIN)/python docs/readme.py

docs: $(READY)
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

install: $(READY)
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed, this is " + sys.version)'
	@cat $^ | cmp -s - $@ || $(MAKE) --no-print-directory environment
	@cat $^ > $@

.PHONY: environment
environment:
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock  # half a minute, and every import of TensorFlow takes 4 s for 9
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .

# A notebook from its text (jupytext's py:percent), new or changed: executed, exported, cleaned.
#   make notebook SRC=denoise.py NB=nbs/08_cells/10_denoise.ipynb
notebook: $(READY)
	$(BIN)/jupytext -q $(if $(wildcard $(NB)),--update) --to ipynb --set-kernel python3 -o $(NB) $(SRC)
	-@$(BIN)/jupytext -q --update-metadata '{"jupytext": null}' $(NB) 2>/dev/null  # where it is
	$(BIN)/ruff check -q --fix $(NB) && $(BIN)/ruff format -q $(NB)
	$(BIN)/nbdev-export --path $(NB)
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --log-level=ERROR $(NB)
	$(BIN)/nbdev-clean --fname $(NB)

# After a change of the dependencies in pyproject.toml.
lock:
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header \
	  --extra dev --extra docs --extra napari --extra czi pyproject.toml -o requirements.lock

clean:
	rm -rf .venv docs/_build demo
