/* SPDX-License-Identifier: MIT */
/*
 * Preloaded into Bochs: AES rounds and carry-less products of a guest are done by the same instructions of the build machine,
 * if it has them. Bochs does them byte by byte and bit by bit, and that is half of its time while two hosts move a guest over
 * TLS. The emulated machine sees no difference: results, ticks and instruction counts stay the same.
 *
 * In each of three functions (the register forms of AVX, which OpenSSL's AES-GCM is made of) the computation of one 128-bit
 * lane is replaced, where it is as we know it; another Bochs is left as it is, and only slower.
 */
#define _GNU_SOURCE
#include "bochs_patch.h"
#include <dlfcn.h>

#define CODE(s) s, sizeof(s) - 1

/* What the computation of a lane begins with, what follows it, and what does the same as all of that. */
static const struct {
	const char *function;
	const char *head;
	unsigned n_head;
	const char *tail;
	unsigned n_tail;
	const char *instead;
	unsigned n_instead;
} lanes[] = {
	{ "_ZN8BX_CPU_C18VAESENC_VdqHdqWdqREP15bxInstruction_c",
	  CODE("\x41\x0f\xb6\x55\xf5\x45\x0f\xb6\x45\xf1"), /* movzbl -11(%r13),%edx; movzbl -15(%r13),%r8d */
	  CODE("\x66\x41\x0f\x6f\x45\xf0\x66\x0f\xef\x03"), /* movdqa -16(%r13),%xmm0; pxor (%rbx),%xmm0 */
	  CODE("\x66\x41\x0f\x6f\x45\xf0\x66\x0f\x38\xdc\x03") }, /* movdqa -16(%r13),%xmm0; aesenc (%rbx),%xmm0 */
	{ "_ZN8BX_CPU_C22VAESENCLAST_VdqHdqWdqREP15bxInstruction_c",
	  CODE("\x44\x0f\xb6\x70\xf5\x44\x0f\xb6\x48\xf1"), /* movzbl -11(%rax),%r14d; movzbl -15(%rax),%r9d */
	  CODE("\x66\x0f\x6f\x46\xf0\x66\x0f\xef\x01"), /* movdqa -16(%rsi),%xmm0; pxor (%rcx),%xmm0; RSI = RAX here */
	  CODE("\x48\x89\xc6\x66\x0f\x6f\x40\xf0\x66\x0f\x38\xdd\x01") }, /* mov %rax,%rsi; movdqa...; aesenclast (%rcx),%xmm0 */
	{ "_ZN8BX_CPU_C23VPCLMULQDQ_VdqHdqWdqIbREP15bxInstruction_c",
	  CODE("\x48\x85\xc0\x74\x52\x31\xf6\x31\xc9"), /* test %rax,%rax; je; xor %esi,%esi; xor %ecx,%ecx */
	  CODE("\x66\x2e\x0f\x1f\x84\x00\x00\x00\x00\x00"), /* the nop in front of the loop's end */
	  /* movq %rdx,%xmm0; movq %rax,%xmm2; pclmulqdq $0,%xmm2,%xmm0; movaps %xmm0,(%rdi) */
	  CODE("\x66\x48\x0f\x6e\xc2\x66\x48\x0f\x6e\xd0\x66\x0f\x3a\x44\xc2\x00\x0f\x29\x07") },
};

__attribute__((constructor)) static void use_own_instructions(void)
{
	if (!__builtin_cpu_supports("aes") || !__builtin_cpu_supports("pclmul"))
		return;
	for (unsigned i = 0; i < sizeof(lanes) / sizeof(*lanes); i++) {
		uint8_t *fn = dlsym(RTLD_DEFAULT, lanes[i].function), jump[64], *head, *tail;
		int32_t far;

		head = fn ? memmem(fn, 512, lanes[i].head, lanes[i].n_head) : NULL;
		tail = head ? memmem(head, 256, lanes[i].tail, lanes[i].n_tail) : NULL;
		if (!tail || tail - head < (int)lanes[i].n_instead + 5)
			continue;
		memcpy(jump, lanes[i].instead, lanes[i].n_instead);
		far = (int32_t)(tail + lanes[i].n_tail - (head + lanes[i].n_instead + 5));
		jump[lanes[i].n_instead] = 0xe9;
		memcpy(jump + lanes[i].n_instead + 1, &far, sizeof(far));
		patch_code(head, jump, lanes[i].n_instead + 5);
	}
}
