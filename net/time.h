/* SPDX-License-Identifier: MIT */
/* The host's clock, set right by time servers: an SNTP client over lwIP's UDP. lwIP's own asks one server and shows nothing of
 * its answer but the time; here several are asked and compared, and their stratum, leap and dispersion count. */
#pragma once
#include "hv/config.h"

struct cJSON;

/* Begins to ask, if the configuration names servers. lwIP must run. */
void time_init(const struct time_config *c);
/* One bounded turn: asks who is due, works what was answered into the wall clock. */
void time_poll(void);
/* Whether a question is not answered yet: when the answer is seen is part of what it says. */
bool time_waiting(void);
/* Whether the first answer has come, or none is to be waited for. */
bool time_settled(void);
/* The object that query-time answers. */
struct cJSON *time_query(void);
