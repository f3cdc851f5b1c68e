# SPDX-License-Identifier: MIT
# Builds the host-side command: build/godwit, and build/godwit-asan for the tests.
# Included by the top Makefile; uses BUILD, DEPS, and DEPS_STAMP (the file that says that the library
# sources are unpacked; may be empty).
BUILD ?= build
DEPS ?= build/deps
HOSTCC ?= gcc

GODWIT_CLI := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
GODWIT_OBJ := $(BUILD)/host/godwit
GODWIT_SRC := $(wildcard $(GODWIT_CLI)/*.c)
GODWIT_MBEDTLS_CONFIG := $(GODWIT_CLI)/mbedtls_host_config.h

# Named rather than globbed, because the sources may not be unpacked yet when make reads this.
GODWIT_MBEDTLS := aes aesni asn1parse asn1write base64 bignum bignum_core bignum_mod bignum_mod_raw \
	block_cipher cipher cipher_wrap constant_time ctr_drbg ecdh ecdsa ecp ecp_curves entropy \
	entropy_poll error gcm hkdf hmac_drbg md oid pem pk pk_ecc pk_wrap pkparse pkwrite platform \
	platform_util psa_crypto psa_crypto_aead psa_crypto_cipher psa_crypto_client \
	psa_crypto_driver_wrappers_no_static psa_crypto_ecp psa_crypto_hash psa_crypto_mac \
	psa_crypto_random psa_crypto_rsa psa_crypto_slot_management psa_crypto_storage psa_util sha1 sha256 sha512 \
	ssl_ciphersuites ssl_client ssl_debug_helpers_generated ssl_msg ssl_tls ssl_tls13_client \
	ssl_tls13_generic ssl_tls13_keys x509 x509_create x509_crt x509write x509write_crt

GODWIT_INC := -I$(DEPS)/mbedtls/include -I$(DEPS)/cjson -I$(DEPS)/inih \
	-I$(GODWIT_CLI) -iquote . -DMBEDTLS_CONFIG_FILE='"mbedtls_host_config.h"'
GODWIT_CFLAGS := -std=gnu11 -O2 -g -D_GNU_SOURCE -MMD -MP $(GODWIT_INC)
GODWIT_WARN := -Wall -Wextra -Werror -Wvla -Wshadow -Wstrict-prototypes -Wmissing-prototypes
GODWIT_ASAN := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer

GODWIT_LIB_OBJS := $(GODWIT_MBEDTLS:%=$(GODWIT_OBJ)/mbedtls/%.o)
GODWIT_OWN := $(GODWIT_SRC:$(GODWIT_CLI)/%.c=%.o)
GODWIT_OBJS := $(addprefix $(GODWIT_OBJ)/,$(GODWIT_OWN) cJSON.o ini.o)
GODWIT_ASAN_OBJS := $(addprefix $(GODWIT_OBJ)/asan/,$(GODWIT_OWN) cJSON.o ini.o)

$(BUILD)/godwit: $(GODWIT_OBJS) $(GODWIT_LIB_OBJS)
	$(HOSTCC) -o $@ $^

$(BUILD)/godwit-asan: $(GODWIT_ASAN_OBJS) $(GODWIT_LIB_OBJS)
	$(HOSTCC) $(GODWIT_ASAN) -o $@ $^

$(GODWIT_OBJ)/%.o: $(GODWIT_CLI)/%.c | $(DEPS_STAMP)
	@mkdir -p $(@D)
	$(HOSTCC) $(GODWIT_CFLAGS) $(GODWIT_WARN) -c -o $@ $<

$(GODWIT_OBJ)/asan/%.o: $(GODWIT_CLI)/%.c | $(DEPS_STAMP)
	@mkdir -p $(@D)
	$(HOSTCC) $(GODWIT_CFLAGS) $(GODWIT_WARN) $(GODWIT_ASAN) -c -o $@ $<

# The libraries' own warnings are not ours to fix (-w).
$(GODWIT_OBJ)/mbedtls/%.o: $(GODWIT_MBEDTLS_CONFIG) | $(DEPS_STAMP)
	@mkdir -p $(@D)
	$(HOSTCC) $(GODWIT_CFLAGS) -w -I$(DEPS)/mbedtls/library -c -o $@ $(DEPS)/mbedtls/library/$*.c

$(GODWIT_OBJ)/cJSON.o $(GODWIT_OBJ)/asan/cJSON.o: | $(DEPS_STAMP)
	@mkdir -p $(@D)
	$(HOSTCC) $(GODWIT_CFLAGS) -w $(if $(findstring asan,$@),$(GODWIT_ASAN)) -c -o $@ $(DEPS)/cjson/cJSON.c

# A name too long for a line must be an error, not a truncated name: lines of up to 1000 bytes. An indented
# line is a line like any other, not more of the value above.
$(GODWIT_OBJ)/ini.o $(GODWIT_OBJ)/asan/ini.o: $(GODWIT_CLI)/rules.mk | $(DEPS_STAMP)
	@mkdir -p $(@D)
	$(HOSTCC) $(GODWIT_CFLAGS) -w -DINI_MAX_LINE=1000 -DINI_STOP_ON_FIRST_ERROR=1 -DINI_ALLOW_MULTILINE=0 \
		$(if $(findstring asan,$@),$(GODWIT_ASAN)) -c -o $@ $(DEPS)/inih/ini.c

.PHONY: godwit-test
godwit-test: $(BUILD)/godwit $(BUILD)/godwit-asan
	python3 $(GODWIT_CLI)/test/run.py $(BUILD)/godwit
	python3 $(GODWIT_CLI)/test/run.py $(BUILD)/godwit-asan

-include $(wildcard $(GODWIT_OBJ)/*.d $(GODWIT_OBJ)/asan/*.d)
