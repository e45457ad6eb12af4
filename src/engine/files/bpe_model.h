/*
 * bpe_model.h
 *     Byte-level BPE, from what tokenizer.json, or vocab.json and merges.txt, say. C++ only.
 */
#ifndef IA3_BPE_MODEL_H
#define IA3_BPE_MODEL_H

#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "token_model.h"

/* Pieces are in GPT-2's alphabet, which has a printable character for every byte. */
struct ia3_bpe {
    std::vector<std::pair<std::string, int>> vocab;
    std::vector<std::pair<std::string, std::string>> merges; /* the first ones first */
    std::set<std::string> controls;                          /* tokens that mark places in a text */
    std::string unk, eos;                                    /* tokens, or empty */
    bool add_prefix_space = false;                           /* before a text that does not begin with one */
    bool ignore_merges = false;                              /* a whole word in the vocabulary is one token */
};

/* Makes a model from the files at `path`; NULL after filling err. A token beyond vocab_size is an error. */
std::unique_ptr<ia3_token_model> ia3_bpe_model(const ia3_bpe &bpe, const char *path, int vocab_size,
                                               ia3_error *err);

#endif
