/*
 * protobuf.h
 *     Writes fields of protobuf messages. C++ only.
 */
#ifndef IA3_PROTOBUF_H
#define IA3_PROTOBUF_H

#include <cstdint>
#include <cstring>
#include <string>

inline void
ia3_put_varint(std::string *out, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        out->push_back(static_cast<char>(v | 0x80));
    out->push_back(static_cast<char>(v));
}

inline void
ia3_put_number(std::string *out, uint32_t field, uint64_t v)
{
    ia3_put_varint(out, field << 3);
    ia3_put_varint(out, v);
}

inline void
ia3_put_bytes(std::string *out, uint32_t field, const std::string &bytes)
{
    ia3_put_varint(out, field << 3 | 2);
    ia3_put_varint(out, bytes.size());
    out->append(bytes);
}

inline void
ia3_put_float(std::string *out, uint32_t field, float v)
{
    uint32_t bits;

    memcpy(&bits, &v, sizeof bits);
    ia3_put_varint(out, field << 3 | 5);
    for (int i = 0; i < 4; i++)
        out->push_back(static_cast<char>(bits >> (8 * i)));
}

#endif
