// Name what is in a picture, in C++ with ONNX Runtime alone: name_picture MODEL.onnx PICTURE.ppm [HEDGE]
//
// The model takes 8-bit RGB of any size; resizing, normalisation and decoding are inside of it, and the names of its nodes
// are in its metadata. PPM is what every tool writes (convert cat.jpg cat.ppm); take the decoder that you have instead.
// Exit code: 0, 1 for a picture that cannot be read, 2 for a model that cannot.
#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

// Read a binary PPM of 8 bits; returns false for anything else. pixels: row by row, three bytes each.
static bool read_ppm(const char* name, int64_t& width, int64_t& height, std::vector<uint8_t>& pixels) {
    std::ifstream file(name, std::ios::binary);
    std::string magic;
    int64_t most = 0;
    if (!(file >> magic >> width >> height >> most) || magic != "P6" || most != 255 || width < 1 || height < 1) return false;
    file.get();  // the one blank behind the header
    pixels.resize(static_cast<size_t>(3 * width * height));
    return bool(file.read(reinterpret_cast<char*>(pixels.data()), static_cast<std::streamsize>(pixels.size())));
}

// Return the name of each node: the first word of the third column, behind two lines about the table.
static std::vector<std::string> read_names(const std::string& table) {
    std::vector<std::string> names;
    std::istringstream lines(table);
    std::string line, column;
    for (int number = 0; std::getline(lines, line); ++number) {
        std::istringstream columns(line);
        for (int skip = 0; skip < 3; ++skip) std::getline(columns, column, '\t');
        if (number >= 2) names.push_back(column.substr(0, column.find('|')));
    }
    return names;
}

int main(int count, char** words) try {
    if (count < 3) return std::fprintf(stderr, "name_picture MODEL.onnx PICTURE.ppm [HEDGE]\n"), 2;
    float hedge = count > 3 ? std::strtof(words[3], nullptr) : 0.9F;
    int64_t width = 0, height = 0;
    std::vector<uint8_t> pixels;
    if (!read_ppm(words[2], width, height, pixels))
        return std::fprintf(stderr, "'%s' is no PPM of 8 bits.\n", words[2]), 1;

    Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "name_picture");
    env.DisableTelemetryEvents();
    Ort::Session session(env, words[1], Ort::SessionOptions{});
    Ort::AllocatorWithDefaultOptions allocator;
    auto table = session.GetModelMetadata().LookupCustomMetadataMapAllocated("label_space_text", allocator);
    if (table == nullptr) return std::fprintf(stderr, "'%s' was not written by miil21k export onnx.\n", words[1]), 2;
    std::vector<std::string> names = read_names(table.get());

    auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    int64_t shape[] = {1, height, width, 3};
    Ort::Value inputs[] = {
        Ort::Value::CreateTensor<uint8_t>(memory, pixels.data(), pixels.size(), shape, 4),
        Ort::Value::CreateTensor<float>(memory, &hedge, 1, nullptr, 0),
    };
    const char* given[] = {"images", "hedge"};
    const char* wanted[] = {"path", "path_prob", "hedge_node", "hedge_prob"};
    auto found = session.Run(Ort::RunOptions{}, given, inputs, 2, wanted, 4);

    const int32_t* path = found[0].GetTensorData<int32_t>();
    const float* probability = found[1].GetTensorData<float>();
    const size_t depth = found[0].GetTensorTypeAndShapeInfo().GetElementCount();
    for (size_t step = 0; step < depth && path[step] >= 0; ++step)
        std::printf("%.2f  %s\n", probability[step], names.at(static_cast<size_t>(path[step])).c_str());
    const int32_t node = found[2].GetTensorData<int32_t>()[0];
    std::printf("%.2f sure: %s\n", hedge, node < 0 ? "(nothing)" : names.at(static_cast<size_t>(node)).c_str());
    return 0;
} catch (const std::exception& error) {
    return std::fprintf(stderr, "%s\n", error.what()), 2;
}
