/* SPDX-License-Identifier: MIT */
/* Point arithmetic of P-256 and Curve25519 for mbedTLS (MBEDTLS_ECP_INTERNAL_ALT) on four 64-bit limbs. A handshake stops
 * the guest on a host's only CPU; with mbedTLS's general bignum it takes several times as long. Which scalars are walked,
 * and how, stays mbedTLS's business; the formulas here are the same as there, and nothing branches or indexes on
 * coordinates (except for the point at infinity, as there). */
#define MBEDTLS_ALLOW_PRIVATE_ACCESS
#include "mbedtls/ecp.h"
#include "ecp_internal_alt.h"
#include "hv/lib/types.h"
#include <string.h>

typedef unsigned __int128 u128;
typedef struct { u64 v[4]; } fe; /* little-endian limbs, always below the modulus */

struct field { u64 p[4]; };

static const struct field p256 = { { 0xffffffffffffffff, 0x00000000ffffffff, 0, 0xffffffff00000001 } };
static const struct field p25519 = { { 0xffffffffffffffed, 0xffffffffffffffff, 0xffffffffffffffff, 0x7fffffffffffffff } };

#ifdef NET_TEST
extern bool ecp_alt_off; /* tests compare both */
bool ecp_alt_off;
#endif

/* --- Field --- */

/* r = t (5 limbs, below 2p; the fifth is 0 or 1) mod p. May alias. */
static inline void reduce_once(u64 r[4], const u64 t[5], const struct field *f)
{
	u64 d[4], borrow = 0, keep;

#pragma GCC unroll 4
	for (int i = 0; i < 4; i++) {
		u128 x = (u128)t[i] - f->p[i] - borrow;

		d[i] = (u64)x;
		borrow = (u64)(x >> 64) & 1;
	}
	keep = -(u64)(borrow > t[4]);
#pragma GCC unroll 4
	for (int i = 0; i < 4; i++)
		r[i] = (t[i] & keep) | (d[i] & ~keep);
}

static inline void multiply(u64 t[8], const u64 a[4], const u64 b[4])
{
	memset(t, 0, 64);
#pragma GCC unroll 4
	for (int i = 0; i < 4; i++) {
		u64 c = 0;

#pragma GCC unroll 4
		for (int j = 0; j < 4; j++) {
			u128 x = (u128)a[j] * b[i] + t[i + j] + c;

			t[i + j] = (u64)x;
			c = (u64)(x >> 64);
		}
		t[i + 4] = c;
	}
}

/* 2^256 is 38 modulo 2^255 - 19. */
static void reduce_25519(u64 r[4], const u64 t[8])
{
	u64 u[5], c = 0, top;
	u128 x;

#pragma GCC unroll 4
	for (int i = 0; i < 4; i++) {
		x = (u128)t[i + 4] * 38 + t[i] + c;
		u[i] = (u64)x;
		c = (u64)(x >> 64);
	}
	/* c is at most 38; what is above bit 255 folds in as 19s, which cannot carry out again. */
	top = c << 1 | u[3] >> 63;
	u[3] &= 0x7fffffffffffffff;
	c = top * 19;
#pragma GCC unroll 4
	for (int i = 0; i < 4; i++) {
		x = (u128)u[i] + c;
		u[i] = (u64)x;
		c = (u64)(x >> 64);
	}
	u[4] = 0;
	reduce_once(r, u, &p25519);
}

/* FIPS 186-4, D.2.3 ("Curve P-256"), summed up by 32-bit word. */
static void reduce_p256(u64 r[4], const u64 t[8])
{
	s64 c[16], w[8], carry, more;
	u64 u[5];

#pragma GCC unroll 8
	for (int i = 0; i < 8; i++) {
		c[2 * i] = (u32)t[i];
		c[2 * i + 1] = (s64)(t[i] >> 32);
	}
	w[0] = c[0] + c[8] + c[9] - c[11] - c[12] - c[13] - c[14];
	w[1] = c[1] + c[9] + c[10] - c[12] - c[13] - c[14] - c[15];
	w[2] = c[2] + c[10] + c[11] - c[13] - c[14] - c[15];
	w[3] = c[3] + 2 * (c[11] + c[12]) + c[13] - c[15] - c[8] - c[9];
	w[4] = c[4] + 2 * (c[12] + c[13]) + c[14] - c[9] - c[10];
	w[5] = c[5] + 2 * (c[13] + c[14]) + c[15] - c[10] - c[11];
	w[6] = c[6] + 2 * (c[14] + c[15]) + c[14] + c[13] - c[8] - c[9];
	w[7] = c[7] + 3 * c[15] + c[8] - c[10] - c[11] - c[12] - c[13];
	/* Twice: carry through, and fold what is above bit 255 by 2^256 = 2^224 - 2^192 - 2^96 + 1. */
#pragma GCC unroll 2
	for (int round = 0; round < 2; round++) {
		carry = 0;
#pragma GCC unroll 8
		for (int i = 0; i < 8; i++) {
			w[i] += carry;
			carry = w[i] >> 32;
			w[i] &= 0xffffffff;
		}
		w[0] += carry;
		w[3] -= carry;
		w[6] -= carry;
		w[7] += carry;
	}
	/* The first carry is within -4..5, so the value is below 2^256 + 5 * 2^224 after it and within 0..2^256 after the second:
	 * less than 2p. Single words may still be -1. */
	more = 0;
#pragma GCC unroll 4
	for (int i = 0; i < 4; i++) {
		__int128 x = (__int128)w[2 * i] + (__int128)w[2 * i + 1] * 0x100000000 + more;

		u[i] = (u64)x;
		more = (s64)(x >> 64);
	}
	u[4] = 0;
	reduce_once(r, u, &p256);
}

static void mul(fe *r, const fe *a, const fe *b, const struct field *f)
{
	u64 t[8];

	multiply(t, a->v, b->v);
	if (f == &p256)
		reduce_p256(r->v, t);
	else
		reduce_25519(r->v, t);
}

static void sqr(fe *r, const fe *a, const struct field *f)
{
	mul(r, a, a, f);
}

static void add(fe *r, const fe *a, const fe *b, const struct field *f)
{
	u64 t[5], c = 0;

#pragma GCC unroll 4
	for (int i = 0; i < 4; i++) {
		u128 x = (u128)a->v[i] + b->v[i] + c;

		t[i] = (u64)x;
		c = (u64)(x >> 64);
	}
	t[4] = c;
	reduce_once(r->v, t, f);
}

static void sub(fe *r, const fe *a, const fe *b, const struct field *f)
{
	u64 borrow = 0, c = 0, mask;

#pragma GCC unroll 4
	for (int i = 0; i < 4; i++) {
		u128 x = (u128)a->v[i] - b->v[i] - borrow;

		r->v[i] = (u64)x;
		borrow = (u64)(x >> 64) & 1;
	}
	mask = -borrow;
#pragma GCC unroll 4
	for (int i = 0; i < 4; i++) {
		u128 x = (u128)r->v[i] + (f->p[i] & mask) + c;

		r->v[i] = (u64)x;
		c = (u64)(x >> 64);
	}
}

/* 1 / a by Fermat; the exponent p - 2 is public. */
static void invert(fe *r, const fe *a, const struct field *f)
{
	u64 e[4] = { f->p[0] - 2, f->p[1], f->p[2], f->p[3] };
	fe x = *a;

	/* The top bit of p - 2 is bit 255 or 254. */
	for (int i = (f->p[3] >> 63 ? 255 : 254) - 1; i >= 0; i--) {
		sqr(&x, &x, f);
		if (e[i / 64] >> (i % 64) & 1)
			mul(&x, &x, a, f);
	}
	*r = x;
}

static bool is_zero(const fe *a)
{
	return !(a->v[0] | a->v[1] | a->v[2] | a->v[3]);
}

/* --- Between mbedTLS's numbers and ours --- */

static void load(fe *r, const mbedtls_mpi *m, const struct field *f)
{
	u64 t[5];

	for (unsigned i = 0; i < 5; i++)
		t[i] = i < 4 && i < m->n ? m->p[i] : 0;
	reduce_once(r->v, t, f);
}

static int store(mbedtls_mpi *m, const fe *a)
{
	int r = mbedtls_mpi_grow(m, 4);

	if (r)
		return r;
	memcpy(m->p, a->v, sizeof(a->v));
	for (unsigned i = 4; i < m->n; i++)
		m->p[i] = 0;
	m->s = 1;
	return 0;
}

static int store_point(mbedtls_ecp_point *r, const fe *x, const fe *y, const fe *z)
{
	int e = store(&r->X, x);

	if (!e && y)
		e = store(&r->Y, y);
	if (!e)
		e = z ? store(&r->Z, z) : mbedtls_mpi_lset(&r->Z, 1);
	return e;
}

static const struct field *field_of(const mbedtls_ecp_group *grp)
{
	return grp->id == MBEDTLS_ECP_DP_SECP256R1 ? &p256 : &p25519;
}

unsigned char mbedtls_internal_ecp_grp_capable(const mbedtls_ecp_group *grp)
{
#ifdef NET_TEST
	if (ecp_alt_off)
		return 0;
#endif
	return grp->id == MBEDTLS_ECP_DP_SECP256R1 || grp->id == MBEDTLS_ECP_DP_CURVE25519;
}

int mbedtls_internal_ecp_init(const mbedtls_ecp_group *grp)
{
	(void)grp;
	return 0;
}

void mbedtls_internal_ecp_free(const mbedtls_ecp_group *grp)
{
	(void)grp;
}

/* --- P-256: Jacobian coordinates, a = -3 --- */

int mbedtls_internal_ecp_double_jac(const mbedtls_ecp_group *grp, mbedtls_ecp_point *r, const mbedtls_ecp_point *p)
{
	const struct field *f = field_of(grp);
	fe x, y, z, delta, gamma, beta, alpha, t;

	load(&x, &p->X, f);
	load(&y, &p->Y, f);
	load(&z, &p->Z, f);
	/* delta = z^2, gamma = y^2, beta = x gamma, alpha = 3 (x - delta)(x + delta) */
	sqr(&delta, &z, f);
	sqr(&gamma, &y, f);
	mul(&beta, &x, &gamma, f);
	sub(&t, &x, &delta, f);
	add(&alpha, &x, &delta, f);
	mul(&t, &t, &alpha, f);
	add(&alpha, &t, &t, f);
	add(&alpha, &alpha, &t, f);
	/* z' = 2 y z */
	mul(&z, &y, &z, f);
	add(&z, &z, &z, f);
	/* x' = alpha^2 - 8 beta */
	add(&beta, &beta, &beta, f);
	add(&beta, &beta, &beta, f);
	sqr(&x, &alpha, f);
	sub(&x, &x, &beta, f);
	sub(&x, &x, &beta, f);
	/* y' = alpha (4 beta - x') - 8 gamma^2 */
	sub(&t, &beta, &x, f);
	mul(&y, &alpha, &t, f);
	sqr(&gamma, &gamma, f);
	add(&gamma, &gamma, &gamma, f);
	add(&gamma, &gamma, &gamma, f);
	add(&gamma, &gamma, &gamma, f);
	sub(&y, &y, &gamma, f);
	return store_point(r, &x, &y, &z);
}

/* r = p + q, with q's Z 1 (or 0). */
int mbedtls_internal_ecp_add_mixed(const mbedtls_ecp_group *grp, mbedtls_ecp_point *r, const mbedtls_ecp_point *p,
                                   const mbedtls_ecp_point *q)
{
	const struct field *f = field_of(grp);
	fe x1, y1, z1, x2, y2, h, s, hh, hhh, v;

	if (!q->Z.p)
		return MBEDTLS_ERR_ECP_BAD_INPUT_DATA;
	if (!mbedtls_mpi_cmp_int(&p->Z, 0))
		return mbedtls_ecp_copy(r, q);
	if (!mbedtls_mpi_cmp_int(&q->Z, 0))
		return mbedtls_ecp_copy(r, p);
	if (mbedtls_mpi_cmp_int(&q->Z, 1))
		return MBEDTLS_ERR_ECP_BAD_INPUT_DATA;
	load(&x1, &p->X, f);
	load(&y1, &p->Y, f);
	load(&z1, &p->Z, f);
	load(&x2, &q->X, f);
	load(&y2, &q->Y, f);
	/* h = x2 z1^2 - x1, s = y2 z1^3 - y1 */
	sqr(&h, &z1, f);
	mul(&s, &h, &z1, f);
	mul(&h, &h, &x2, f);
	mul(&s, &s, &y2, f);
	sub(&h, &h, &x1, f);
	sub(&s, &s, &y1, f);
	if (is_zero(&h))
		return is_zero(&s) ? mbedtls_internal_ecp_double_jac(grp, r, p) : mbedtls_ecp_set_zero(r);
	/* z' = z1 h, x' = s^2 - h^3 - 2 x1 h^2, y' = s (x1 h^2 - x') - y1 h^3 */
	mul(&z1, &z1, &h, f);
	sqr(&hh, &h, f);
	mul(&hhh, &hh, &h, f);
	mul(&v, &hh, &x1, f);
	sqr(&x1, &s, f);
	sub(&x1, &x1, &hhh, f);
	sub(&x1, &x1, &v, f);
	sub(&x1, &x1, &v, f);
	sub(&v, &v, &x1, f);
	mul(&v, &v, &s, f);
	mul(&hhh, &hhh, &y1, f);
	sub(&y1, &v, &hhh, f);
	return store_point(r, &x1, &y1, &z1);
}

/* (x, y) of a point with 1/z known. */
static int affine(mbedtls_ecp_point *pt, const fe *zi, const struct field *f)
{
	fe x, y, t;

	load(&x, &pt->X, f);
	load(&y, &pt->Y, f);
	mul(&y, &y, zi, f);
	sqr(&t, zi, f);
	mul(&x, &x, &t, f);
	mul(&y, &y, &t, f);
	return store_point(pt, &x, &y, NULL);
}

int mbedtls_internal_ecp_normalize_jac(const mbedtls_ecp_group *grp, mbedtls_ecp_point *pt)
{
	const struct field *f = field_of(grp);
	fe z;

	load(&z, &pt->Z, f);
	invert(&z, &z, f);
	return affine(pt, &z, f);
}

/* All at the price of one inversion: prefix products, inverted, taken apart again. */
int mbedtls_internal_ecp_normalize_jac_many(const mbedtls_ecp_group *grp, mbedtls_ecp_point *t[], size_t n)
{
	const struct field *f = field_of(grp);
	fe c[1 << (MBEDTLS_ECP_WINDOW_SIZE - 1)], z, zi;

	if (n > ARRAY_SIZE(c) || !n)
		return MBEDTLS_ERR_ECP_BAD_INPUT_DATA;
	load(&c[0], &t[0]->Z, f);
	for (size_t i = 1; i < n; i++) {
		load(&z, &t[i]->Z, f);
		mul(&c[i], &c[i - 1], &z, f);
	}
	invert(&zi, &c[n - 1], f);
	for (size_t i = n; i-- > 0;) {
		fe one;
		int r;

		load(&z, &t[i]->Z, f);
		if (i)
			mul(&one, &zi, &c[i - 1], f);
		else
			one = zi;
		mul(&zi, &zi, &z, f);
		r = affine(t[i], &one, f);
		if (r)
			return r;
	}
	return 0;
}

/* --- Curve25519: Montgomery's ladder, RFC 7748 --- */

int mbedtls_internal_ecp_double_add_mxz(const mbedtls_ecp_group *grp, mbedtls_ecp_point *r, mbedtls_ecp_point *s,
                                        const mbedtls_ecp_point *p, const mbedtls_ecp_point *q, const mbedtls_mpi *d)
{
	const struct field *f = field_of(grp);
	fe px, pz, qx, qz, a24, dd, t0, t1, t2, t3, x, z;
	int e;

	load(&px, &p->X, f);
	load(&pz, &p->Z, f);
	load(&qx, &q->X, f);
	load(&qz, &q->Z, f);
	load(&a24, &grp->A, f); /* mbedTLS keeps (A + 2) / 4 there */
	load(&dd, d, f);
	add(&t0, &px, &pz, f);
	sub(&t1, &px, &pz, f);
	add(&t2, &qx, &qz, f);
	sub(&t3, &qx, &qz, f);
	mul(&t3, &t3, &t0, f);
	mul(&t2, &t2, &t1, f);
	sqr(&t0, &t0, f);
	sqr(&t1, &t1, f);
	mul(&x, &t0, &t1, f);
	sub(&t0, &t0, &t1, f);
	mul(&z, &a24, &t0, f);
	add(&z, &z, &t1, f);
	mul(&z, &z, &t0, f);
	e = store_point(r, &x, NULL, &z);
	if (e)
		return e;
	add(&x, &t3, &t2, f);
	sqr(&x, &x, f);
	sub(&z, &t3, &t2, f);
	sqr(&z, &z, f);
	mul(&z, &z, &dd, f);
	return store_point(s, &x, NULL, &z);
}

int mbedtls_internal_ecp_normalize_mxz(const mbedtls_ecp_group *grp, mbedtls_ecp_point *p)
{
	const struct field *f = field_of(grp);
	fe x, z;

	load(&x, &p->X, f);
	load(&z, &p->Z, f);
	invert(&z, &z, f);
	mul(&x, &x, &z, f);
	return store_point(p, &x, NULL, NULL);
}
