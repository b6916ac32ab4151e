# Two commands: `make gate` sets up, builds and runs the main job on the committed model; `make test` passes the tests.
.PHONY: gate test clean
gate: build
	@tests/gate build
test: build
	@.ci/test build
.PHONY: build
build:
	@.ci/install
	@.ci/build build
clean:
	rm -rf build build-sanitize out
