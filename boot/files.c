/* SPDX-License-Identifier: MIT */
#include "boot/boot.h"

#include <stdio.h>
#include <string.h>

#define CONFIG_MAX_BYTES (1u << 20)
#define READ_CHUNK (8u << 20) /* some firmware fails on larger reads */

static EFI_GUID loaded_image_guid = LOADED_IMAGE_PROTOCOL;
static EFI_GUID file_system_guid = SIMPLE_FILE_SYSTEM_PROTOCOL;
static EFI_GUID file_info_guid = EFI_FILE_INFO_ID;

static EFI_FILE_HANDLE open_volume(EFI_HANDLE image)
{
	EFI_BOOT_SERVICES *bs = boot_st->BootServices;
	EFI_LOADED_IMAGE *li;
	EFI_FILE_IO_INTERFACE *fs;
	EFI_FILE_HANDLE root;

	if (EFI_ERROR(bs->HandleProtocol(image, &loaded_image_guid, (void **)&li)) || !li->DeviceHandle)
		return NULL;
	if (EFI_ERROR(bs->HandleProtocol(li->DeviceHandle, &file_system_guid, (void **)&fs)))
		return NULL;
	if (EFI_ERROR(fs->OpenVolume(fs, &root)))
		return NULL;
	return root;
}

/* Reads \godwit\NAME. Fills data and size, or error. */
static void load(EFI_FILE_HANDLE root, struct boot_info *bi, struct boot_file *f)
{
	static u8 info_buf[sizeof(EFI_FILE_INFO) + 512] __attribute__((aligned(8)));
	EFI_FILE_INFO *info = (EFI_FILE_INFO *)info_buf;
	CHAR16 path[80] = u"\\godwit\\";
	UINTN n = 8, len = sizeof(info_buf);
	EFI_FILE_HANDLE file;
	EFI_STATUS st;
	u64 done = 0;
	u8 *data;

	for (const char *p = f->name; *p && n < ARRAY_SIZE(path) - 1; p++)
		path[n++] = *p == '/' ? '\\' : (u8)*p;
	path[n] = 0;
	st = root->Open(root, &file, path, EFI_FILE_MODE_READ, 0);
	if (EFI_ERROR(st)) {
		if (st == EFI_NOT_FOUND && !strcmp(f->name, "godwit.conf"))
			snprintf(f->error, sizeof(f->error), "file \\godwit\\godwit.conf is missing: this host has no name and no guests."
				" Put the file on the boot disk (the godwit command writes one).");
		else if (st == EFI_NOT_FOUND)
			snprintf(f->error, sizeof(f->error), "file \\godwit\\%s is missing. Copy it to the folder godwit"
				" of the boot disk, or correct godwit.conf.", f->name);
		else
			snprintf(f->error, sizeof(f->error), "file \\godwit\\%s cannot be opened (EFI status %#llx)."
				" Check the boot disk's file system.", f->name, (unsigned long long)st);
		return;
	}
	st = file->GetInfo(file, &file_info_guid, &len, info);
	if (EFI_ERROR(st) || info->Attribute & EFI_FILE_DIRECTORY || !info->FileSize) {
		snprintf(f->error, sizeof(f->error), "file \\godwit\\%s is %s. Copy the right one to the boot disk.", f->name,
			EFI_ERROR(st) ? "unreadable" : info->FileSize ? "a folder" : "empty");
		goto out;
	}
	data = boot_pages(bi, info->FileSize);
	if (!data) {
		snprintf(f->error, sizeof(f->error), "no memory for file \\godwit\\%s (%llu MiB). Use a smaller file or add memory.",
			f->name, (unsigned long long)info->FileSize >> 20);
		goto out;
	}
	while (done < info->FileSize) {
		UINTN chunk = MIN(info->FileSize - done, (u64)READ_CHUNK);

		st = file->Read(file, &chunk, data + done);
		if (EFI_ERROR(st) || !chunk) {
			snprintf(f->error, sizeof(f->error), "file \\godwit\\%s ends after %llu of %llu bytes (EFI status %#llx)."
				" Check the boot disk and copy the file again.", f->name, (unsigned long long)done,
				(unsigned long long)info->FileSize, (unsigned long long)st);
			goto out;
		}
		done += chunk;
	}
	f->data = data;
	f->size = done;
out:
	file->Close(file);
}

/* Adds NAME (len bytes) to the files, once, and reads it. */
static void want(EFI_FILE_HANDLE root, struct boot_info *bi, const char *name, size_t len)
{
	char key[sizeof(bi->files[0].name)];
	struct boot_file *f;

	if (!len || len >= sizeof(key))
		return; /* config_parse() has refused longer names */
	memcpy(key, name, len);
	key[len] = 0;
	if (boot_file(bi, key))
		return;
	BUG_ON(bi->n_files == BOOT_MAX_FILES);
	f = &bi->files[bi->n_files++];
	memcpy(f->name, key, len + 1);
	if (root)
		load(root, bi, f);
	else
		snprintf(f->error, sizeof(f->error), "file \\godwit\\%s cannot be read: firmware shows no file system on the"
			" boot device. Boot from a FAT volume.", key);
	if (f->data)
		boot_say("  %s  %llu KiB", f->name, (unsigned long long)(f->size + 1023) >> 10);
	else
		boot_say("  %s", f->error);
}

void boot_files_load(EFI_HANDLE image, struct boot_info *bi)
{
	EFI_FILE_HANDLE root = open_volume(image);
	struct boot_file conf = { .name = "godwit.conf" };

	if (root)
		load(root, bi, &conf);
	if (conf.data && conf.size > CONFIG_MAX_BYTES) {
		conf.data = NULL;
		snprintf(conf.error, sizeof(conf.error), "file \\godwit\\godwit.conf is larger than 1 MiB. Make it smaller.");
	}
	bi->config_missing = !conf.data;
	config_parse(&bi->config, conf.data ? (const char *)conf.data : "", conf.data ? conf.size : 0);
	if (bi->config_missing) {
		/* An absent file is not a faulty one: defaults, and the one error that tells what to do. */
		bi->config.n_errors = 1;
		bi->config.errors[0] = (struct error){ .code = E_NOENT };
		snprintf(bi->config.errors[0].text, sizeof(bi->config.errors[0].text), "%s", conf.error[0] ? conf.error :
			"godwit.conf cannot be read: firmware shows no file system on the boot device. Boot from a FAT volume.");
	}
	boot_records_load(bi);
	keep_merge(&bi->config);
	boot_say("Host %s, %u guest(s) configured", bi->config.host_name, bi->config.n_guests);
	for (u32 i = 0; i < bi->config.n_errors; i++)
		boot_say("  config: %s", bi->config.errors[i].text);

	want(root, bi, "ca.crt", 6);
	want(root, bi, "host.crt", 8);
	want(root, bi, "host.key", 8);
	for (u32 i = 0; i < bi->config.n_guests; i++) {
		const struct guest_config *g = &bi->config.guests[i];

		want(root, bi, g->kernel, strlen(g->kernel));
		want(root, bi, g->initrd, strlen(g->initrd));
		for (u32 m = 0; m < g->n_modules; m++)
			want(root, bi, g->modules[m], strcspn(g->modules[m], " "));
		for (u32 d = 0; d < g->n_disks; d++)
			want(root, bi, g->disks[d].image, strlen(g->disks[d].image));
	}
	if (root)
		root->Close(root);
}
