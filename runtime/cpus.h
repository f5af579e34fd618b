/* cpus.h - how many CPUs this process may use: those it may run on, and the time its control groups give it.
 *
 * A container with a quota sees all CPUs of its host; threads that outnumber its quota are stopped for the rest of each
 * period, most often while others wait for them. Groups are read in both versions of Linux's interface, from the process's
 * own up to the root: inside a container the own group is often the root that it sees. */
#ifndef OCTET_CPUS_H
#define OCTET_CPUS_H
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The beginning of a file as text; NULL: there is none. */
static inline char *text_of(const char *path, char *text, size_t room)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = file < 0 ? -1 : read(file, text, room - 1);
    if (file >= 0) close(file);
    if (n < 0) return NULL;
    text[n] = 0;
    return text;
}

static inline const char *number_of(const char *text, uint64_t *n) /* what follows it; 0: there is no number */
{
    for (*n = 0; *text >= '0' && *text <= '9' && *n < UINT32_MAX; text++) *n = *n * 10 + (uint64_t)(*text - '0');
    return text;
}

/* "max" and -1 are no limit, and so is what is not understood. A part of a CPU counts as one. */
static inline int32_t quota_cpus(const char *quota, const char *period)
{
    uint64_t q, p;
    const char *rest = number_of(quota, &q);
    number_of(period ? period : rest + (*rest == ' '), &p);
    if (!q || !p || q / p >= INT32_MAX) return INT32_MAX;
    return (int32_t)(q / p + (q % p != 0));
}

static inline int32_t group_quota(const char *folder)
{
    enum { PATH = 600, NUMBER = 64 };
    char path[PATH], quota[NUMBER], period[NUMBER];
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    if (text_of(path, quota, sizeof quota)) return quota_cpus(quota, NULL);
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    if (!text_of(path, quota, sizeof quota)) return INT32_MAX;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    return text_of(path, period, sizeof period) ? quota_cpus(quota, period) : INT32_MAX;
}

static inline bool has_name(const char *names, const char *name) /* among those between commas */
{
    size_t n = strlen(name);
    for (const char *at = names; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (!strncmp(at, name, n) && (!at[n] || at[n] == ',')) return true;
    return false;
}

/* Of the group named by a line of /proc/self/cgroup, "0::/a/b" or "4:cpu,cpuacct:/a/b", and of all above it. */
static inline int32_t line_quota(const char *root, char *line)
{
    enum { FOLDER = 512 };
    char folder[FOLDER], *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
    if (!path) return INT32_MAX;
    *path++ = 0, names++;
    bool own = has_name(names, "cpu");
    if (*names && !own) return INT32_MAX;
    int32_t least = INT32_MAX;
    for (char *end = path + strlen(path);; end = strrchr(path, '/')) {
        *end = 0;
        snprintf(folder, sizeof folder, "%s%s%s", root, own ? "/cpu" : "", path);
        int32_t n = group_quota(folder);
        if (n < least) least = n;
        if (!*path || !strrchr(path, '/')) return least;
    }
}

static inline int32_t group_cpus(const char *self, const char *root)
{
    enum { GROUPS = 2048 };
    char groups[GROUPS], *next = text_of(self, groups, sizeof groups);
    int32_t least = INT32_MAX;
    while (next && *next) {
        char *line = next;
        next = strchr(line, '\n');
        if (next) *next++ = 0;
        int32_t n = line_quota(root, line);
        if (n < least) least = n;
    }
    return least;
}

/* More threads than CPUs would only stand in each other's way. */
static inline int32_t usable_cpus(void)
{
    cpu_set_t set;
    int32_t may = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : INT32_MAX;
    int32_t quota = may > 1 ? group_cpus("/proc/self/cgroup", "/sys/fs/cgroup") : may;
    return may < quota ? may : quota;
}
#endif
