/* SPDX-License-Identifier: MIT */
/* godwit migrate, migrate-status, migrate-cancel. */
#ifndef GODWIT_MIGRATE_H
#define GODWIT_MIGRATE_H

int migrate_main(int argc, char **argv);
int migrate_status_main(int argc, char **argv);
int migrate_cancel_main(int argc, char **argv);

#endif
