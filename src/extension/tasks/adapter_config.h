/*
 * adapter_config.h
 *     PEFT's adapter_config.json, which is written for exports and, for (IA)³, checked for imports. The engine checks those
 *     of other methods.
 */
#ifndef IA3_ADAPTER_CONFIG_H
#define IA3_ADAPTER_CONFIG_H

#include "common/protocol.h"

#include "utils/jsonb.h"

#include "method.h"

/* The modules whose vectors an adapter holds, as its file names them. */
typedef struct Ia3AdapterModules {
    int n;
    char **names;      /* "encoder.block.0.layer.0.SelfAttention.k" */
    bool *scalesInput; /* its vector is stored as [1, n]; PEFT calls this a feed-forward module */
} Ia3AdapterModules;

/*
 * The configuration, as jsonb with the keys of PEFT 0.18, of what ia3_export returns. `method` is NULL for (IA)³
 * without options, whose stored form is the same for every T5: the outputs of k and v and the input of wo are scaled. For
 * everything else the engine supplies the members. `path` is that of the backbone, or NULL if unknown. ERROR 0A000 for what PEFT
 * does not have.
 */
extern Datum Ia3AdapterConfigMake(const char *path, const Ia3Method *method);

/*
 * ERROR 22023 unless `config` describes exactly these modules: its type is IA3, every target matches some of them,
 * every one of them is a target, and the feed-forward modules are those whose input is scaled. Names match as in
 * PEFT: the elements of a list with the ends of the modules' names, a string as a regular expression with the whole
 * name.
 */
extern void Ia3AdapterConfigCheck(Jsonb *config, const Ia3AdapterModules *modules);

/* The model that the configuration names, palloc'd; NULL if it names none. */
extern char *Ia3AdapterConfigBase(Jsonb *config);
/*
 * Whether a backbone's directory may contain this model, which is a name ("google/flan-t5-large") or a path: its last
 * component is one of the directory's, or the end of one, after "--", as in the cache of Hugging Face's hub.
 */
extern bool Ia3AdapterConfigFits(const char *base, const char *path);

#endif
