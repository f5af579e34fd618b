/* options.h - the command line as data: options.def has a row for every option, the help text comes from the rows. */
#ifndef OCTET_OPTIONS_H
#define OCTET_OPTIONS_H
#include "ir/base/diag.h"

typedef enum OptionId {
#define OPTION(id, ...) OPT_##id,
#include "frontend/options.def"
#undef OPTION
    OPT_COUNT
} OptionId;

typedef struct Options Options;
typedef struct Command {
    const char *name;
    unsigned bit;
    const char *synopsis, *help;
    int least, most;                     /* arguments that are not options */
    int (*run)(const Options *, Diag *); /* the exit code; mistakes are in the Diag */
} Command;

struct Options {
    Arena *mem;
    const Command *command;
    const char *value[OPT_COUNT];      /* as given, or the default; NULL: absent */
    VEC(const char *) list[OPT_COUNT]; /* LIST options, in order */
    VEC(const char *) arg;
};

/* argv: behind the command's name. false: reported, a usage error. */
bool options_parse(Options *o, Diag *d, int argc, const char *const *argv);
bool option_is(const Options *o, OptionId id, const char *value);
int usable_cpus(void); /* that this process may run on: the default of --threads and --jobs */
int64_t option_int(const Options *o, OptionId id, int64_t otherwise); /* INT and SIZE; checked by options_parse */
void options_help(const Command *c, FILE *f);
/* What was given and changes what is made, as on a command line: nothing of where things are written or how long that may take. */
const char *options_text(const Options *o, Arena *mem);
const Command *command_find(const char *name);
const Command *command_at(uint32_t i); /* NULL past the end */
#endif
