/* profile.h - the times of a model's steps as a table or as JSON. */
#ifndef OCTET_PROFILE_H
#define OCTET_PROFILE_H
#include "frontend/limits.h"

typedef struct Profile {
    const OctetApi *api;
    const OctetContext *context;
    const uint64_t *nanoseconds; /* per step, of all runs */
    uint32_t runs;
    int threads;
    const char *level;
    Limits limits;
} Profile;
bool profile_limits(Profile *p, Diag *d); /* measures what the steps need to know; false: reported */
void profile_print(const Profile *p, bool by_time, FILE *f);
void profile_json(const Profile *p, bool by_time, FILE *f); /* one object */
#endif
