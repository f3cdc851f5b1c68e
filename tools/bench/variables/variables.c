/* SPDX-License-Identifier: MIT */
/*
 * Bochs has no flash chip: what firmware has written to its variables is gone when the machine is
 * switched off. The bench saves it (bench.py), and this program, in Godwit's place on the disk, gives
 * it back to firmware at the next start, then starts Godwit. \variables holds, for each of Godwit's
 * variables, its name (9 characters), the length of its data (32 bits), and the data.
 */
#include <efi.h>
#include <efilib.h>

#define NAME_BYTES 18

static UINT8 saved[65536];

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *st)
{
	EFI_GUID godwit = { 0x6f3b1c52, 0x8d0e, 0x4c9a, { 0x9e, 0x27, 0x51, 0xd8, 0x3a, 0xb4, 0x70, 0xc6 } };
	EFI_LOADED_IMAGE *self;
	EFI_FILE_HANDLE root, file;
	EFI_HANDLE next;
	UINTN size = sizeof(saved), at = 0;
	UINT32 len;
	EFI_STATUS rc;

	InitializeLib(image, st);
	rc = uefi_call_wrapper(st->BootServices->HandleProtocol, 3, image, &LoadedImageProtocol, (void **)&self);
	if (EFI_ERROR(rc))
		return rc;
	root = LibOpenRoot(self->DeviceHandle);
	if (!root)
		return EFI_NOT_FOUND;
	rc = uefi_call_wrapper(root->Open, 5, root, &file, L"\\variables", EFI_FILE_MODE_READ, 0);
	if (!EFI_ERROR(rc))
		rc = uefi_call_wrapper(file->Read, 3, file, &size, saved);
	while (!EFI_ERROR(rc) && at + NAME_BYTES + 4 <= size) {
		CHAR16 name[NAME_BYTES / 2];

		CopyMem(name, saved + at, NAME_BYTES);
		CopyMem(&len, saved + at + NAME_BYTES, 4);
		at += NAME_BYTES + 4;
		rc = uefi_call_wrapper(st->RuntimeServices->SetVariable, 5, name, &godwit, 7, (UINTN)len, saved + at);
		at += len;
	}
	Print(L"variables: %d bytes given back, status %r\n", at, rc);
	rc = uefi_call_wrapper(st->BootServices->LoadImage, 6, FALSE, image,
			       FileDevicePath(self->DeviceHandle, L"\\EFI\\BOOT\\GODWIT.EFI"), NULL, 0, &next);
	return EFI_ERROR(rc) ? rc : uefi_call_wrapper(st->BootServices->StartImage, 3, next, NULL, NULL);
}
