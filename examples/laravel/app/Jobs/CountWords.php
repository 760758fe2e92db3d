<?php

namespace App\Jobs;

use App\Support\Text;

/** A Laravel job: its data go to the constructor, its dependencies to handle(). */
final class CountWords
{
    public function __construct(private readonly string $path, private readonly int $least = 1)
    {
    }

    public function handle(Text $text): array
    {
        $words = $text->words($this->path, $this->least);
        echo "{$this->path}: ", count($words), " words\n";

        return ['words' => count($words), 'different' => count(array_unique($words))];
    }
}
