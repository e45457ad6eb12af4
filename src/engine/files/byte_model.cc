/*
 * byte_model.cc
 *     ByT5's tokenizer: 0 <pad>, 1 </s>, 2 <unk>, and 3 + b for a byte b.
 */
#include "token_model.h"

#include <cstdio>
#include <cstring>

namespace {

constexpr int first_byte = 3;
const char *const controls[first_byte] = {"<pad>", "</s>", "<unk>"};

class byte_model : public ia3_token_model {
  public:
    byte_model()
    {
        size = first_byte + 256;
        eos = 1;
        unk = 2;
    }

    bool
    encode(const char *text, size_t len, std::vector<ia3_token> *out, ia3_error *) const override
    {
        out->reserve(out->size() + len + 1);
        for (size_t i = 0; i < len; i++)
            out->push_back({first_byte + static_cast<uint8_t>(text[i]), static_cast<uint32_t>(i),
                            static_cast<uint32_t>(i + 1)});
        return true;
    }

    bool
    decode(const std::vector<int> &ids, bool, std::string *out, ia3_error *) const override
    {
        for (int id : ids)
            if (id >= first_byte)
                out->push_back(static_cast<char>(id - first_byte));
        return true;
    }

    const char *
    piece(int id, char buffer[64]) const override
    {
        if (id < first_byte)
            return controls[id];

        int byte = id - first_byte;

        if (byte > ' ' && byte < 0x7f)
            snprintf(buffer, 64, "%c", byte);
        else
            snprintf(buffer, 64, "<0x%02X>", static_cast<unsigned>(byte));
        return buffer;
    }

    int
    lookup(const std::string &piece) const override
    {
        for (int i = 0; i < first_byte; i++)
            if (piece == controls[i])
                return i;
        return piece.size() == 1 ? first_byte + static_cast<uint8_t>(piece[0]) : -1;
    }
};

} // namespace

std::unique_ptr<ia3_token_model>
ia3_byte_model()
{
    return std::make_unique<byte_model>();
}
