# What a user does: `make run`, `make test`, `make install`. Everything else is `cargo xtask`.

ROOT_PREFIX = /usr/local
USER_PREFIX = $(HOME)/.local
PREFIX ?= $(if $(filter 0,$(shell id -u)),$(ROOT_PREFIX),$(USER_PREFIX))
DESTDIR ?=

.PHONY: run test check build install uninstall bench

# Boots a VM from the default image, shows where the time goes, and removes it again.
run:
	scripts/install-host-packages.sh run
	cargo xtask run

# Everything: formatting, lints, crate tests, real VMs, fuzz targets for a bounded time.
test:
	scripts/install-host-packages.sh test
	cargo xtask check
	cargo xtask test

check:
	cargo xtask check

build:
	cargo xtask dist

install: build
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/banger
	install -p -m 755 target/dist/bin/banger target/dist/bin/bangerd $(DESTDIR)$(PREFIX)/bin
	install -p -m 755 target/dist/lib/banger/banger-agent $(DESTDIR)$(PREFIX)/lib/banger
	install -d $(DESTDIR)$(PREFIX)/share
	cp -r target/dist/share/. $(DESTDIR)$(PREFIX)/share

# Stops the daemon and removes the programs; images, kernels and VMs stay.
uninstall:
	-$(DESTDIR)$(PREFIX)/bin/banger daemon stop
	rm -f $(DESTDIR)$(PREFIX)/bin/banger $(DESTDIR)$(PREFIX)/bin/bangerd
	rm -f $(DESTDIR)$(PREFIX)/lib/banger/banger-agent
	-rmdir $(DESTDIR)$(PREFIX)/lib/banger
	rm -f $(DESTDIR)$(PREFIX)/share/man/man1/banger.1 $(DESTDIR)$(PREFIX)/share/man/man1/banger-*.1
	rm -f $(DESTDIR)$(PREFIX)/share/bash-completion/completions/banger
	rm -f $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_banger
	rm -f $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/banger.fish

bench: build
	cargo xtask bench
