<?php

namespace App\Support;

use UnderflowException;

/** A service of the application, created by the container. */
final class Text
{
    /** @return list<string> */
    public function words(string $path, int $least = 1): array
    {
        $words = preg_split('/\s+/', file_get_contents($path), flags: PREG_SPLIT_NO_EMPTY);
        $words = array_values(array_filter($words, fn ($word) => strlen($word) >= $least));
        if ($words === []) {
            throw new UnderflowException("there are no words in $path");
        }

        return $words;
    }
}
