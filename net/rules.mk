# SPDX-License-Identifier: MIT
# Libraries of the network part, compiled as they are (their configuration is ours: net/port/), and its host tests.
# Included by the top Makefile, which sets CC, HOSTCC, LIB_CFLAGS, BUILD and DEPS. Names are listed rather than
# globbed, because the sources may not be unpacked yet when make reads this.
LWIP_DIR := $(DEPS)/lwip/src
LWIP_SRCS := $(addprefix core/,def.c inet_chksum.c init.c ip.c mem.c memp.c netif.c pbuf.c sys.c tcp.c tcp_in.c tcp_out.c \
	timeouts.c udp.c ipv4/acd.c ipv4/dhcp.c ipv4/etharp.c ipv4/icmp.c ipv4/ip4.c ipv4/ip4_addr.c) netif/ethernet.c
MBEDTLS_DIR := $(DEPS)/mbedtls
MBEDTLS_SRCS := $(addsuffix .c,aes aesni asn1parse asn1write base64 bignum bignum_core bignum_mod bignum_mod_raw \
	block_cipher cipher cipher_wrap constant_time ctr_drbg ecdh ecdsa ecp ecp_curves entropy gcm hkdf hmac_drbg md \
	oid pem pk pk_ecc pk_wrap pkparse platform platform_util psa_crypto psa_crypto_aead psa_crypto_cipher \
	psa_crypto_client psa_crypto_driver_wrappers_no_static psa_crypto_ecp psa_crypto_hash psa_crypto_mac \
	psa_crypto_random psa_crypto_rsa psa_crypto_slot_management psa_util sha256 ssl_ciphersuites ssl_client \
	ssl_debug_helpers_generated ssl_msg ssl_tls ssl_tls13_client ssl_tls13_generic ssl_tls13_keys ssl_tls13_server \
	x509 x509_crt)
# AES-GCM in assembly (net/port/gcm_alt.c); each .pl prints GNU assembler.
OPENSSL_DIR := $(DEPS)/openssl/crypto
OPENSSL_OBJS := $(addprefix $(BUILD)/obj/lib/openssl/,aes/asm/aesni-x86_64.o modes/asm/ghash-x86_64.o \
	modes/asm/aesni-gcm-x86_64.o)
CJSON_DIR := $(DEPS)/cjson
CJSON_SRCS := cJSON.c

# -isystem: their headers are not held to our warnings.
NET_INC := -Inet/port -isystem $(LWIP_DIR)/include -isystem $(MBEDTLS_DIR)/include -isystem $(MBEDTLS_DIR)/library \
	-isystem $(CJSON_DIR) -DMBEDTLS_CONFIG_FILE='"net/port/mbedtls_config.h"' -DCJSON_NESTING_LIMIT=16
NET_CFLAGS := $(NET_INC)

LIB_OBJS += $(LWIP_SRCS:%.c=$(BUILD)/obj/lib/lwip/%.o) $(MBEDTLS_SRCS:%.c=$(BUILD)/obj/lib/mbedtls/%.o) \
	$(CJSON_SRCS:%.c=$(BUILD)/obj/lib/cjson/%.o) $(OPENSSL_OBJS)

$(BUILD)/obj/lib/openssl/%.o: $(OPENSSL_DIR)/%.pl
	@mkdir -p $(@D)
	@echo '  PERL    $<'; CC='$(CC)' perl $< elf $(@:.o=.s) && $(CC) -Wa,--noexecstack -c $(@:.o=.s) -o $@
# Libraries include our configuration, and -MMD leaves out what is included that way.
NET_PORT_H := $(wildcard net/port/*.h net/port/arch/*.h)
$(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard net/*.c net/port/*.c)): $(NET_PORT_H)

$(BUILD)/obj/lib/lwip/%.o: $(LWIP_DIR)/%.c $(NET_PORT_H)
	@mkdir -p $(@D)
	@echo '  CC      $<'; $(CC) $(LIB_CFLAGS) $(NET_INC) -c $< -o $@
$(BUILD)/obj/lib/mbedtls/%.o: $(MBEDTLS_DIR)/library/%.c $(NET_PORT_H)
	@mkdir -p $(@D)
	@echo '  CC      $<'; $(CC) $(LIB_CFLAGS) $(NET_INC) -c $< -o $@
$(BUILD)/obj/lib/cjson/%.o: $(CJSON_DIR)/%.c
	@mkdir -p $(@D)
	@echo '  CC      $<'; $(CC) $(LIB_CFLAGS) $(NET_INC) -c $< -o $@

# --- Host tests: the same libraries and sources with ASan and UBSan, over net/net_fake.c ---
NET_TEST_DIR := $(BUILD)/host/net
NET_TEST_CFLAGS := -std=gnu11 -O1 -g -DNET_TEST -fsanitize=address,undefined -fno-sanitize-recover=undefined \
	-fno-omit-frame-pointer -MMD -MP -Ihv/fake/include -I. $(NET_INC)
NET_TEST_OBJS := $(addprefix $(NET_TEST_DIR)/,$(LWIP_SRCS:%.c=lib/lwip/%.o) $(MBEDTLS_SRCS:%.c=lib/mbedtls/%.o) \
	$(CJSON_SRCS:%.c=lib/cjson/%.o) net/port/net_mem.o net/port/sys.o net/port/entropy.o net/port/gcm_alt.o \
	net/net_fake.o hv/lib/err.o) $(OPENSSL_OBJS)

$(NET_TEST_DIR)/lib/lwip/%.o: $(LWIP_DIR)/%.c $(NET_PORT_H)
	@mkdir -p $(@D)
	@echo '  CC      $<'; $(HOSTCC) $(NET_TEST_CFLAGS) -w -c $< -o $@
# Hand-made carries in bignum and the like: unsigned overflow there is meant, UBSan's alignment view is not ours.
$(NET_TEST_DIR)/lib/mbedtls/%.o: $(MBEDTLS_DIR)/library/%.c $(NET_PORT_H)
	@mkdir -p $(@D)
	@echo '  CC      $<'; $(HOSTCC) $(NET_TEST_CFLAGS) -w -c $< -o $@
$(NET_TEST_DIR)/lib/cjson/%.o: $(CJSON_DIR)/%.c
	@mkdir -p $(@D)
	@echo '  CC      $<'; $(HOSTCC) $(NET_TEST_CFLAGS) -w -c $< -o $@
$(NET_TEST_DIR)/%.o: %.c $(NET_PORT_H)
	@mkdir -p $(@D)
	@echo '  CC      $<'; $(HOSTCC) $(NET_TEST_CFLAGS) -Wall -Wextra -Werror -Wno-unused-parameter -c $< -o $@

$(BUILD)/tests/pki/done: net/test_pki.sh
	sh $< $(@D)
NET_TESTS := $(BUILD)/tests/time_test $(BUILD)/tests/net_test $(BUILD)/tests/nbd_test $(BUILD)/tests/nbd_link_test $(BUILD)/tests/tls_test $(BUILD)/tests/control_test $(BUILD)/tests/gcm_test
UNIT_TESTS += $(NET_TESTS)
$(BUILD)/tests/nbd_link_test: $(addprefix $(NET_TEST_DIR)/net/,nbd_link_test.o nbd.o nbd_client.o nbd_proto.o identity.o rx_queue.o tls.o) $(NET_TEST_OBJS) | \
	$(BUILD)/tests/pki/done
	@echo '  LD      $@'; $(HOSTCC) -fsanitize=address,undefined -o $@ $^ -lcmocka
$(BUILD)/tests/tls_test: $(addprefix $(NET_TEST_DIR)/net/,tls_test.o identity.o rx_queue.o tls.o) $(NET_TEST_OBJS) | $(BUILD)/tests/pki/done
	@echo '  LD      $@'; $(HOSTCC) -fsanitize=address,undefined -Wl,--wrap=mbedtls_ssl_handshake_step -o $@ $^ -lcmocka
$(BUILD)/tests/net_test: $(addprefix $(NET_TEST_DIR)/net/,net_test.o net.o identity.o rx_queue.o tls.o) $(NET_TEST_OBJS) | \
	$(BUILD)/tests/pki/done
	@echo '  LD      $@'; $(HOSTCC) -fsanitize=address,undefined -o $@ $^ -lcmocka
$(BUILD)/tests/time_test: $(addprefix $(NET_TEST_DIR)/net/,time_test.o time.o ntp.o) $(NET_TEST_OBJS)
	@echo '  LD      $@'; $(HOSTCC) -fsanitize=address,undefined -o $@ $^ -lcmocka
$(BUILD)/tests/gcm_test: $(NET_TEST_DIR)/net/port/gcm_test.o $(NET_TEST_OBJS)
	@mkdir -p $(@D)
	@echo '  LD      $@'; $(HOSTCC) -fsanitize=address,undefined -o $@ $^ -lcmocka
$(BUILD)/tests/control_test: $(addprefix $(NET_TEST_DIR)/,net/control_test.o net/control.o net/commands.o net/vswitch.o net/net_fake.o \
	net/port/sys.o hv/lib/err.o lib/cjson/cJSON.o lib/mbedtls/base64.o lib/mbedtls/constant_time.o) \
	$(CONFIG_SRCS:%.c=$(BUILD)/tests/obj/%.o)
	@echo '  LD      $@'; $(HOSTCC) -fsanitize=address,undefined -o $@ $^ -lcmocka

NBD_TEST_OBJS := $(addprefix $(NET_TEST_DIR)/,net/nbd_client.o net/nbd_proto.o)
$(BUILD)/tests/nbd_test: $(NET_TEST_DIR)/net/nbd_test.o $(NBD_TEST_OBJS) $(NET_TEST_OBJS)
	@mkdir -p $(@D)
	@echo '  LD      $@'; $(HOSTCC) -fsanitize=address,undefined -o $@ $^ -lcmocka
# Against real servers: tools/bench/nbd_test.py.
UNIT_TEST_TOOLS += $(BUILD)/tests/nbd_real
$(BUILD)/tests/nbd_real: $(addprefix $(NET_TEST_DIR)/net/,nbd_real_test.o identity.o rx_queue.o tls.o) $(NBD_TEST_OBJS) $(NET_TEST_OBJS)
	@mkdir -p $(@D)
	@echo '  LD      $@'; $(HOSTCC) -fsanitize=address,undefined -o $@ $^

-include $(shell find $(NET_TEST_DIR) -name '*.d' 2>/dev/null)

# For tools/fuzz/rules.mk.
FUZZ_SRCS_nbd := net/nbd_proto.c hv/lib/err.c hv/lib/log.c hv/lib/clock.c hv/lib/bug.c
