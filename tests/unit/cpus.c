/* How many CPUs control groups give a process. */
#include "runtime/cpus.h"
#include <criterion/criterion.h>
#include <sys/stat.h>

static void file_write(const char *root, const char *name, const char *text)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *at = path + strlen(root) + 1; (at = strchr(at, '/')); *at++ = '/') *at = 0, mkdir(path, 0700);
    FILE *f = fopen(path, "w");
    cr_assert(f && fputs(text, f) >= 0 && !fclose(f), "%s", path);
}

Test(cpus, quotas_are_rounded_up)
{
    cr_expect_eq(quota_cpus("150000 100000\n", NULL), 2);
    cr_expect_eq(quota_cpus("max 100000\n", NULL), INT32_MAX);
    cr_expect_eq(quota_cpus("-1\n", "100000\n"), INT32_MAX);
    cr_expect_eq(quota_cpus("300000\n", "100000\n"), 3);
    cr_expect_eq(quota_cpus("", NULL), INT32_MAX);
}

Test(cpus, the_least_of_a_group_and_those_above)
{
    char root[] = "/tmp/octet-cpus-XXXXXX", self[64];
    cr_assert(mkdtemp(root));
    snprintf(self, sizeof self, "%s/self", root);
    cr_expect_eq(group_cpus(self, root), INT32_MAX, "no groups");
    file_write(root, "self", "9:name=systemd:/x\n3:cpuset,memory:/y\n0::/a/b\n");
    cr_expect_eq(group_cpus(self, root), INT32_MAX, "no quotas");
    file_write(root, "a/b/cpu.max", "800000 100000\n");
    cr_expect_eq(group_cpus(self, root), 8);
    file_write(root, "a/cpu.max", "250000 100000\n");
    cr_expect_eq(group_cpus(self, root), 3);
    file_write(root, "cpu.max", "100000 100000\n");
    cr_expect_eq(group_cpus(self, root), 1, "a container sees its group as the root");
    file_write(root, "self", "4:cpuacct,cpu:/c\n");
    cr_expect_eq(group_cpus(self, root), INT32_MAX);
    file_write(root, "cpu/c/cpu.cfs_quota_us", "400000\n"), file_write(root, "cpu/c/cpu.cfs_period_us", "200000\n");
    cr_expect_eq(group_cpus(self, root), 2);
}
